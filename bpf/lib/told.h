/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * XDP's note (note.h) as tc reads it, out of the packet's linear part and without parsing: has_plain_header()
 * was true for XDP. Nothing is written to the packet: a program that does so has each one copied that a
 * socket or a tap holds as well (bpf_unclone_prologue).
 */
#pragma once

#include <bpf/bpf_helpers.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>

#include "count.h"
#include "ctx_skb.h"
#include "events.h"
#include "note.h"

static __always_inline int has_ports(__u8 proto) { return proto == IPPROTO_UDP || proto == IPPROTO_UDPLITE; }

/* Programs in between may have rewritten the packet. */
static __always_inline int is_about_v4(const struct note *note, const struct __sk_buff *skb,
                                       const struct iphdr *ip) {
  const __be32 *ports = (const void *)(ip + 1);

  if ((void *)(ports + 1) > (void *)(long)skb->data_end || ip->ihl != 5) return 0;
  return note->word == word_of_v4(note, ip, has_ports(ip->protocol) ? *ports : 0, skb->ifindex);
}

static __always_inline int is_about_v6(const struct note *note, const struct __sk_buff *skb,
                                       const struct ipv6hdr *ip) {
  const __be32 *ports = (const void *)(ip + 1);

  if ((void *)(ports + 1) > (void *)(long)skb->data_end) return 0;
  return note->word == word_of_v6(note, ip, has_ports(ip->nexthdr) ? *ports : 0, skb->ifindex);
}

static __always_inline int is_about(const struct note *note, const struct __sk_buff *skb) {
  const void *eth = ctx_ethernet(skb);
  const struct iphdr *ip = eth + ETH_HLEN;

  if (!eth || (void *)(ip + 1) > (void *)(long)skb->data_end) return 0;
  return ip->version == 4 ? is_about_v4(note, skb, ip) : is_about_v6(note, skb, eth + ETH_HLEN);
}

/*
 * Whether the packet is one that XDP has judged, which then is counted. A mark of ours, a tag that the device
 * has taken out, and a trace are nothing that XDP knows of.
 */
static __always_inline int is_told(struct __sk_buff *skb) {
  const struct note *note = (void *)(long)skb->data_meta;

  if ((void *)(note + 1) > (void *)(long)skb->data) return 0;
  if (skb->mark & tpx_mark_mask || skb->vlan_present || is_traced() || !is_about(note, skb)) return 0;
  if (note->counter != TPX_NO_RULE) count_by_xdp(&tpx_rule_hits, note->counter, skb->len);
  count_by_xdp(&tpx_counters, note->reason, skb->len);
  return 1;
}
