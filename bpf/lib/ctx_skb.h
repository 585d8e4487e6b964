/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * ctx_* for tc programs. Reads are relative to the network header, which the
 * stack has set before tc ingress runs: the same code serves Ethernet and
 * layer-3 devices (tun, WireGuard), linear and non-linear packets.
 * bpf_skb_load_bytes_relative is in tc since Linux 4.18.
 */
#pragma once

#include <bpf/bpf_helpers.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>

#include "control.h"
#include "copy.h"

typedef struct __sk_buff ctx_t;

/* What may precede the network header: Ethernet and a VLAN tag. */
#define LINK_HEADERS_MAX 18

/* The relative read knows only the linear part; some drivers and long header
 * chains leave headers behind it, so it is made longer (Linux 4.9). */
static __noinline long ctx_load_scattered(struct __sk_buff *skb, __u32 offset, void *to, __u32 len) {
  __u32 reach = LINK_HEADERS_MAX + offset + len;

  if (offset + len > skb->len) return -1;
  if (bpf_skb_pull_data(skb, reach < skb->len ? reach : skb->len)) return -1;
  return bpf_skb_load_bytes_relative(skb, offset, to, len, BPF_HDR_START_NET);
}

/*
 * The Ethernet header; NULL where there is none, or it is out of reach. Without one
 * the packet's own bytes could look like it: only user space knows the devices.
 */
static __always_inline const void *ctx_ethernet(const struct __sk_buff *skb) {
  const struct tpx_control *control = control_block();
  const __be16 *words = (void *)(long)skb->data;

  if (!control || control->headerless || (void *)words + ETH_HLEN > (void *)(long)skb->data_end) return 0;
  return words[ETH_ALEN] == (__be16)skb->protocol ? words : 0;
}

static __always_inline long ctx_load(struct __sk_buff *skb, __u32 offset, void *to, __u32 len) {
  long err = bpf_skb_load_bytes_relative(skb, offset, to, len, BPF_HDR_START_NET);

  return err ? ctx_load_scattered(skb, offset, to, len) : 0;
}

DEFINE_LOADS(tpx_skb)

static __always_inline __be16 ctx_protocol(const struct __sk_buff *skb) { return skb->protocol; }

static __always_inline __u32 ctx_len(const struct __sk_buff *skb) { return skb->len; }
static __always_inline int ctx_is_shorter(const struct __sk_buff *skb, __u32 len) { return len > skb->len; }
static __always_inline __u32 ctx_gso_size(const struct __sk_buff *skb) { return skb->gso_size; }
static __always_inline __u32 ctx_ifindex(const struct __sk_buff *skb) { return skb->ifindex; }
static __always_inline __u32 ctx_mark(const struct __sk_buff *skb) { return skb->mark; }

/* VLAN id in the packet's metadata, where drivers and the stack put the outer tag. */
static __always_inline __u16 ctx_vlan_id(const struct __sk_buff *skb) {
  return skb->vlan_present ? skb->vlan_tci & 0xfff : 0;
}

/* The sender's address; zeros where the device has none. There the link header
 * is as empty as the network header is near. */
static __always_inline void ctx_load_mac(struct __sk_buff *skb, __u8 mac[6]) {
  struct ethhdr eth;
  __u8 behind, first;

  __builtin_memset(mac, 0, 6);
  if (bpf_skb_load_bytes_relative(skb, 0, &eth, sizeof(eth), BPF_HDR_START_MAC) ||
      bpf_skb_load_bytes_relative(skb, sizeof(eth), &behind, 1, BPF_HDR_START_MAC) ||
      bpf_skb_load_bytes_relative(skb, 0, &first, 1, BPF_HDR_START_NET))
    return;
  if (eth.h_proto == ctx_protocol(skb) && behind == first) __builtin_memcpy(mac, eth.h_source, 6);
}
