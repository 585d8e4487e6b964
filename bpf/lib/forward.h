/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Forwarding by the FIB, as ip_forward() does it for the plain case: route and
 * neighbour of bpf_fib_lookup(), one hop less, and out. What is not plain goes up
 * to the stack, whole, which knows how to answer, fragment and resolve.
 */
#pragma once

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>

#include "answer.h"
#include "family.h"

#define PKT_TYPE_HOST 0
#define FLOWINFO_MASK 0x0fffffff /* traffic class and flow label (IPV6_FLOWINFO_MASK) */
#define HOPS_AT_V6 7

/* Both ends' addresses, as they lie in struct tpx_flow and in an IPv6 header. */
#define ENDS_LEN (2 * sizeof(struct tpx_addr))

static __always_inline __u8 hops_left(const struct packet *p) {
  return p->is_v6 ? p->ip.v6.hop_limit : p->ip.v4.ttl;
}

/* A mark may choose a route, which the look-up would not see (before Linux 6.10). A link-local sender is not
 * forwarded (RFC 4291, 2.5.6). A tag of VLAN 0 (802.1p) ends here. */
static __always_inline int is_plain(const struct __sk_buff *skb, const struct packet *p) {
  return skb->pkt_type == PKT_TYPE_HOST && !skb->mark && !skb->vlan_present && !p->first_fragment &&
         has_plain_header(p) && hops_left(p) > 1 && !addr_never_proxied(&p->flow.src);
}

/* Of the IP packet that the device will see: of GSO one segment. 0 where it is too long to say. */
static __always_inline __u16 length_to_send(const struct __sk_buff *skb, const struct packet *p) {
  __u32 transport = p->kind == PACKET_TCP ? p->tcp.doff * 4 : sizeof(p->udp);
  __u32 len = skb->gso_size ? fixed_header_len(p) + transport + skb->gso_size : p->end;

  return len > 0xffff ? 0 : len;
}

static __always_inline void ask_about(const struct __sk_buff *skb, const struct packet *p,
                                      const struct tpx_flow *as, struct bpf_fib_lookup *fib) {
  fib->l4_protocol = as->proto;
  fib->sport = as->sport;
  fib->dport = as->dport;
  fib->tot_len = length_to_send(skb, p);
  fib->ifindex = skb->ifindex;
  set_route_ends(fib, as);
  if (p->is_v6)
    fib->flowinfo = *(const __be32 *)&p->ip.v6 & bpf_htonl(FLOWINFO_MASK);
  else
    fib->tos = p->ip.v4.tos;
}

/* 0, with the way in fib, where the packet may take it. */
static __always_inline int find_way(struct __sk_buff *skb, const struct packet *p, const struct tpx_flow *as,
                                    struct bpf_fib_lookup *fib) {
  if (!is_plain(skb, p) || link_header_len(skb, p) != ETHERNET_LEN) return -1;
  ask_about(skb, p, as, fib);
  if (!fib->tot_len || bpf_fib_lookup(skb, fib, sizeof(*fib), 0) != BPF_FIB_LKUP_RET_SUCCESS) return -1;
  /* The sender has a shorter way, which the stack tells it. */
  return fib->ifindex == skb->ifindex ? -1 : 0;
}

/*
 * The addresses of the next link, one hop less, and both ends as they leave: `changed` is the difference that
 * these make to a sum. Of IPv4, header and checksum change by the same, so the
 * sum that the device may have given the packet stays; IPv6 has no checksum to make up for it.
 */
static __always_inline long rewrite(struct __sk_buff *skb, const struct packet *p,
                                    const struct bpf_fib_lookup *fib, const struct tpx_flow *as,
                                    __u32 changed) {
  struct {
    struct ethhdr eth;
    struct iphdr ip;
  } __attribute__((packed)) head = {.eth.h_proto = skb->protocol};
  struct {
    __u8 hops;
    __u8 ends[ENDS_LEN];
  } v6;

  __builtin_memcpy(head.eth.h_dest, fib->dmac, sizeof(fib->dmac));
  __builtin_memcpy(head.eth.h_source, fib->smac, sizeof(fib->smac));
  if (p->is_v6) {
    v6.hops = hops_left(p) - 1;
    __builtin_memcpy(v6.ends, &as->src, sizeof(v6.ends));
    if (bpf_skb_store_bytes(skb, ETHERNET_LEN + HOPS_AT_V6, &v6, sizeof(v6), BPF_F_RECOMPUTE_CSUM)) return -1;
    return bpf_skb_store_bytes(skb, 0, &head.eth, sizeof(head.eth), 0);
  }
  __builtin_memcpy(&head.ip, &p->ip.v4, sizeof(head.ip));
  head.ip.ttl = hops_left(p) - 1;
  head.ip.saddr = as->src.w[3];
  head.ip.daddr = as->dst.w[3];
  /* RFC 1624, equation 3: the word of which the hops are the upper byte is one less there. */
  head.ip.check = ~fold_sum((__u64)changed + (__u16)~head.ip.check + bpf_htons(0xfeff));
  return bpf_skb_store_bytes(skb, 0, &head, sizeof(head), 0);
}

/* What the program returns: TC_ACT_UNSPEC where the packet is as it was and the stack's to forward. */
static __noinline int forward_by_fib(struct __sk_buff *skb, struct packet *p) {
  struct bpf_fib_lookup fib = {};

  if (!p || find_way(skb, p, &p->flow, &fib)) return TC_ACT_UNSPEC;
  return rewrite(skb, p, &fib, &p->flow, 0) ? TC_ACT_SHOT : bpf_redirect(fib.ifindex, 0);
}
