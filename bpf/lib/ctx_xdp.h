/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * ctx_* for XDP programs, as ctx_skb.h has them for tc. A frame on an Ethernet
 * device, which may be in several fragments (bpf_xdp_load_bytes, Linux 5.18);
 * reads are relative to the network header here, too.
 */
#pragma once

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>

#include "copy.h"

typedef struct xdp_md ctx_t;

/* No VLAN has this id. */
#define SOME_VLAN 0xfff

static __always_inline long ctx_load(struct xdp_md *xdp, __u32 offset, void *to, __u32 len) {
  return bpf_xdp_load_bytes(xdp, ETH_HLEN + offset, to, len);
}

/* NULL where the frame is too short; it is never in several fragments. */
static __always_inline const void *ctx_ethernet(const struct xdp_md *xdp) {
  const struct ethhdr *eth = (void *)(long)xdp->data;

  return (void *)(eth + 1) <= (void *)(long)xdp->data_end ? eth : 0;
}

DEFINE_LOADS(tpx_xdp)

static __always_inline __be16 ctx_protocol(const struct xdp_md *xdp) {
  const struct ethhdr *eth = ctx_ethernet(xdp);

  return eth ? eth->h_proto : 0;
}

static __always_inline __u32 ctx_len(struct xdp_md *xdp) { return bpf_xdp_get_buff_len(xdp); }
/* Whether the frame has fewer bytes; the kernel is asked only where its linear part has. */
static __always_inline int ctx_is_shorter(struct xdp_md *xdp, __u32 len) {
  __u32 linear = (void *)(long)xdp->data_end - (void *)(long)xdp->data;

  return len > linear && len > ctx_len(xdp);
}
static __always_inline __u32 ctx_ifindex(const struct xdp_md *xdp) { return xdp->ingress_ifindex; }

/* What only an skb has. */
#define ctx_gso_size(xdp) ((void)(xdp), 0)
#define ctx_mark(xdp) ((void)(xdp), 0)

/* Tags in the frame, whichever they are. One that the device has taken out of it nobody sees here. */
static __always_inline __u16 ctx_vlan_id(const struct xdp_md *xdp) {
  __be16 proto = ctx_protocol(xdp);

  return proto == bpf_htons(ETH_P_8021Q) || proto == bpf_htons(ETH_P_8021AD) ? SOME_VLAN : 0;
}

static __always_inline void ctx_load_mac(struct xdp_md *xdp, __u8 mac[6]) {
  const struct ethhdr *eth = ctx_ethernet(xdp);

  __builtin_memset(mac, 0, 6);
  if (eth) __builtin_memcpy(mac, eth->h_source, 6);
}
