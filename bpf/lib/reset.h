/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Refusing a TCP flow: its SYN becomes the RST that its destination would have
 * sent, and goes back out of the device it came in by. Made here because the
 * stack does not answer for an IPv4 address that is not its own (the route
 * lookup of tcp_v4_send_reset refuses such a source).
 */
#pragma once

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include "parse.h"

#define ETHERNET_LEN 14
#define RESET_HOP_LIMIT 64

struct pseudo_header {
  struct tpx_addr src; /* as mapped addresses: ::ffff: adds 0 in ones' complement */
  struct tpx_addr dst;
  __be32 len;
  __be32 proto;
};

static __always_inline __u16 fold_sum(__u64 sum) {
  sum = (sum & 0xffffffff) + (sum >> 32);
  sum = (sum & 0xffff) + (sum >> 16);
  sum = (sum & 0xffff) + (sum >> 16);
  return (sum & 0xffff) + (sum >> 16);
}

static __always_inline __s64 pseudo_sum(const struct tpx_flow *flow, __u32 len) {
  struct pseudo_header h = {
      .src = flow->src, .dst = flow->dst, .len = bpf_htonl(len), .proto = bpf_htonl(IPPROTO_TCP)};

  return bpf_csum_diff(0, 0, (__be32 *)&h, sizeof(h), 0);
}

#define COMPARED_WORDS 5 /* the IPv4 header, or the start of the IPv6 one */

static __always_inline int network_header_is_at(struct __sk_buff *skb, const struct packet *p, __u32 at) {
  const __u32 *known = (const __u32 *)&p->ip;
  __u32 seen[COMPARED_WORDS], differs = 0;

  if (bpf_skb_load_bytes(skb, at, seen, sizeof(seen))) return 0;
  for (int i = 0; i < COMPARED_WORDS; i++) differs |= seen[i] ^ known[i];
  return !differs;
}

/* 14 on Ethernet, 0 on a layer-3 device, -1 where something else precedes the network header. */
static __always_inline int link_header_len(struct __sk_buff *skb, const struct packet *p) {
  if (network_header_is_at(skb, p, ETHERNET_LEN)) return ETHERNET_LEN;
  return network_header_is_at(skb, p, 0) ? 0 : -1;
}

static __always_inline long swap_link_addresses(struct __sk_buff *skb) {
  __u8 from[12], to[12];

  if (bpf_skb_load_bytes(skb, 0, from, sizeof(from))) return -1;
  __builtin_memcpy(to, from + 6, 6);
  __builtin_memcpy(to + 6, from, 6);
  return bpf_skb_store_bytes(skb, 0, to, sizeof(to), 0);
}

static __always_inline long store_ip(struct __sk_buff *skb, const struct packet *p, __u32 at) {
  if (p->is_v6) {
    struct ipv6hdr ip = {.version = 6,
                         .payload_len = bpf_htons(sizeof(struct tcphdr)),
                         .nexthdr = IPPROTO_TCP,
                         .hop_limit = RESET_HOP_LIMIT,
                         .saddr = p->ip.v6.daddr,
                         .daddr = p->ip.v6.saddr};

    return bpf_skb_store_bytes(skb, at, &ip, sizeof(ip), BPF_F_RECOMPUTE_CSUM);
  }
  struct iphdr ip = {.version = 4,
                     .ihl = 5,
                     .tot_len = bpf_htons(sizeof(struct iphdr) + sizeof(struct tcphdr)),
                     .frag_off = bpf_htons(0x4000), /* don't fragment */
                     .ttl = RESET_HOP_LIMIT,
                     .protocol = IPPROTO_TCP,
                     .saddr = p->ip.v4.daddr,
                     .daddr = p->ip.v4.saddr};

  ip.check = ~fold_sum(bpf_csum_diff(0, 0, (__be32 *)&ip, sizeof(ip), 0));
  return bpf_skb_store_bytes(skb, at, &ip, sizeof(ip), BPF_F_RECOMPUTE_CSUM);
}

/*
 * RFC 9293, 3.10.7.1: sequence number 0, acknowledging the SYN and its data.
 * A packet whose checksum the device was to finish (veth, GSO) carries the sum
 * of the pseudo header instead; the answer must then do the same.
 */
static __always_inline long store_tcp(struct __sk_buff *skb, const struct packet *p, __u32 at,
                                      __u32 tcp_len) {
  __u32 data_len = tcp_len - p->tcp.doff * 4;
  struct tcphdr tcp = {.source = p->tcp.dest,
                       .dest = p->tcp.source,
                       .ack_seq = bpf_htonl(bpf_ntohl(p->tcp.seq) + 1 + data_len),
                       .doff = sizeof(tcp) / 4,
                       .rst = 1,
                       .ack = 1};
  int unfinished = p->tcp.check == fold_sum(pseudo_sum(&p->flow, tcp_len));
  __s64 sum = pseudo_sum(&p->flow, sizeof(tcp));

  if (unfinished)
    tcp.check = fold_sum(sum);
  else
    tcp.check = ~fold_sum(bpf_csum_diff(0, 0, (__be32 *)&tcp, sizeof(tcp), fold_sum(sum)));
  return bpf_skb_store_bytes(skb, at, &tcp, sizeof(tcp), BPF_F_RECOMPUTE_CSUM);
}

/* Returns what the program returns. SYNs with IP options or extension headers are dropped instead. */
static __noinline int answer_with_reset(struct __sk_buff *skb, struct packet *p) {
  __u32 ip_len, tcp_len;
  int link_len;

  if (!p) return TC_ACT_SHOT;
  ip_len = p->is_v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
  if (p->is_v6 ? p->ip.v6.nexthdr != IPPROTO_TCP : p->ip.v4.ihl != 5) return TC_ACT_SHOT;
  if (p->first_fragment || p->end < ip_len + p->tcp.doff * 4) return TC_ACT_SHOT;
  tcp_len = p->end - ip_len;
  link_len = link_header_len(skb, p);
  if (link_len < 0) return TC_ACT_SHOT;
  if (bpf_skb_change_tail(skb, link_len + ip_len + sizeof(struct tcphdr), 0)) return TC_ACT_SHOT;
  if (link_len && swap_link_addresses(skb)) return TC_ACT_SHOT;
  if (store_ip(skb, p, link_len) || store_tcp(skb, p, link_len + ip_len, tcp_len)) return TC_ACT_SHOT;
  return bpf_redirect(skb->ifindex, 0);
}
