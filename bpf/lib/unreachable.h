/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Refusing what is not TCP: the packet becomes the ICMP error that its
 * destination would have sent about it. New headers are put in front; what is
 * quoted stays where it is.
 */
#pragma once

#include "answer.h"
#include "tpx_maps.bpf.h"

#define QUOTED_TRANSPORT 8 /* RFC 792; behind the IP header */
#define TOS_INTERNETWORK_CONTROL 0xc0

#define ICMP_UNREACHABLE 3
#define ICMP_UNREACHABLE_PORT 3
#define ICMP_UNREACHABLE_FILTERED 13
#define ICMPV6_UNREACHABLE 1
#define ICMPV6_UNREACHABLE_PORT 4
#define ICMPV6_UNREACHABLE_FILTERED 1

/* Per CPU. */
#define REFUSALS_INTERVAL_NS 1000000ULL
#define REFUSALS_AT_ONCE 100

#define PKT_TYPE_BROADCAST 1
#define PKT_TYPE_MULTICAST 2

struct icmp_error {
  __u8 type;
  __u8 code;
  __u16 check;
  __be32 unused;
};

struct error_v4 {
  struct iphdr ip;
  struct icmp_error icmp;
};

struct error_v6 {
  struct ipv6hdr ip;
  struct icmp_error icmp;
};

/* RFC 1122, 3.2.2: not about all but a whole packet, nor to more than one host. */
static __always_inline int may_be_answered(const struct __sk_buff *skb, const struct packet *p) {
  if (p->first_fragment || p->unanswerable || !has_plain_header(p)) return 0;
  if (skb->pkt_type == PKT_TYPE_BROADCAST || skb->pkt_type == PKT_TYPE_MULTICAST) return 0;
  return p->end >= fixed_header_len(p) + QUOTED_TRANSPORT;
}

static __always_inline int take_refusal(void) {
  __u64 now = bpf_ktime_get_ns(), earliest = now - REFUSALS_AT_ONCE * REFUSALS_INTERVAL_NS;
  __u32 zero = 0;
  __u64 *next = bpf_map_lookup_elem(&tpx_refusals, &zero);

  if (!next || *next > now) return 0;
  *next = (*next < earliest ? earliest : *next) + REFUSALS_INTERVAL_NS;
  return 1;
}

/*
 * Where the device was to finish the checksum of a datagram (veth, GSO), it will
 * do so in the quote, whose checksum is that of ICMP's as well. So the field gets
 * the one value that finishing it does not change: ~(rest + x) = x, modulo 0xffff.
 */
static __always_inline __u16 settled_checksum(const __be16 *udp) {
  __u32 x = 0xffff - fold_sum((__u64)udp[0] + udp[1] + udp[2]);

  return x & 1 ? (x + 0xffff) / 2 : x / 2;
}

static __always_inline int is_unfinished(const struct __sk_buff *skb, const struct packet *p) {
  __u32 len = p->end - fixed_header_len(p);

  if (p->kind != PACKET_UDP) return 0;
  return skb->gso_size || p->udp.check == fold_sum(pseudo_sum(&p->flow, IPPROTO_UDP, len));
}

static __always_inline long store_error_v4(struct __sk_buff *skb, struct packet *p, __u32 at,
                                           __be16 *transport) {
  struct error_v4 e = {
      .ip = answer_v4(p, IPPROTO_ICMP, sizeof(e.icmp) + sizeof(struct iphdr) + QUOTED_TRANSPORT)};
  __s64 sum;

  e.ip.tos = TOS_INTERNETWORK_CONTROL;
  e.ip.check = header_checksum(&e.ip);
  e.icmp.type = ICMP_UNREACHABLE;
  e.icmp.code = p->kind == PACKET_UDP ? ICMP_UNREACHABLE_PORT : ICMP_UNREACHABLE_FILTERED;
  sum = bpf_csum_diff(0, 0, (__be32 *)transport, QUOTED_TRANSPORT, 0);
  sum = bpf_csum_diff(0, 0, (__be32 *)&p->ip.v4, sizeof(p->ip.v4), fold_sum(sum));
  sum = bpf_csum_diff(0, 0, (__be32 *)&e.icmp, sizeof(e.icmp), fold_sum(sum));
  e.icmp.check = ~fold_sum(sum);
  return bpf_skb_store_bytes(skb, at, &e, sizeof(e), BPF_F_RECOMPUTE_CSUM);
}

static __always_inline long store_error_v6(struct __sk_buff *skb, struct packet *p, __u32 at,
                                           __be16 *transport) {
  const __u32 len = sizeof(struct icmp_error) + sizeof(struct ipv6hdr) + QUOTED_TRANSPORT;
  struct error_v6 e = {.ip = answer_v6(p, NEXTHDR_ICMPV6, len)};
  __s64 sum;

  e.icmp.type = ICMPV6_UNREACHABLE;
  e.icmp.code = p->kind == PACKET_UDP ? ICMPV6_UNREACHABLE_PORT : ICMPV6_UNREACHABLE_FILTERED;
  sum = bpf_csum_diff(0, 0, (__be32 *)transport, QUOTED_TRANSPORT,
                      fold_sum(pseudo_sum(&p->flow, NEXTHDR_ICMPV6, len)));
  sum = bpf_csum_diff(0, 0, (__be32 *)&p->ip.v6, sizeof(p->ip.v6), fold_sum(sum));
  sum = bpf_csum_diff(0, 0, (__be32 *)&e.icmp, sizeof(e.icmp), fold_sum(sum));
  e.icmp.check = ~fold_sum(sum);
  return bpf_skb_store_bytes(skb, at, &e, sizeof(e), BPF_F_RECOMPUTE_CSUM);
}

/* Returns what the program returns. */
static __noinline int answer_unreachable(struct __sk_buff *skb, struct packet *p) {
  __be16 transport[QUOTED_TRANSPORT / 2];
  int link_len, unfinished;
  __u32 ip_len;

  if (!p) return TC_ACT_SHOT;
  unfinished = is_unfinished(skb, p);
  ip_len = fixed_header_len(p);
  link_len = link_header_len(skb, p);
  if (link_len < 0 || bpf_skb_load_bytes(skb, link_len + ip_len, transport, sizeof(transport)))
    return TC_ACT_SHOT;
  /* Cut first: that makes one datagram of a GSO packet, and only such a one grows in front. */
  if (bpf_skb_change_tail(skb, link_len + ip_len + QUOTED_TRANSPORT, 0)) return TC_ACT_SHOT;
  if (unfinished) {
    transport[3] = settled_checksum(transport);
    if (bpf_skb_store_bytes(skb, link_len + ip_len, transport, sizeof(transport), BPF_F_RECOMPUTE_CSUM))
      return TC_ACT_SHOT;
  }
  if (bpf_skb_adjust_room(skb, ip_len + sizeof(struct icmp_error), BPF_ADJ_ROOM_MAC, 0)) return TC_ACT_SHOT;
  if (link_len && swap_link_addresses(skb)) return TC_ACT_SHOT;
  if (p->is_v6 ? store_error_v6(skb, p, link_len, transport) : store_error_v4(skb, p, link_len, transport))
    return TC_ACT_SHOT;
  return bpf_redirect(skb->ifindex, 0);
}
