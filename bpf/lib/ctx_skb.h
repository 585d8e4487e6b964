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

static __always_inline long ctx_load(struct __sk_buff *skb, __u32 offset, void *to, __u32 len) {
  return bpf_skb_load_bytes_relative(skb, offset, to, len, BPF_HDR_START_NET);
}

static __always_inline __be16 ctx_protocol(const struct __sk_buff *skb) { return skb->protocol; }

/* VLAN id in the packet's metadata, where drivers and the stack put the outer tag. */
static __always_inline __u16 ctx_vlan_id(const struct __sk_buff *skb) {
  return skb->vlan_present ? skb->vlan_tci & 0xfff : 0;
}
