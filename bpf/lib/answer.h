/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What all answers need that a packet is turned into: checksums, and the
 * Ethernet header turned round. They are made in tc because the stack does not
 * answer for an IPv4 address that is not its own.
 */
#pragma once

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include "parse.h"

#define ETHERNET_LEN 14
#define ANSWER_HOP_LIMIT 64
#define IPV4_DONT_FRAGMENT 0x4000

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

/* The same for both directions of the flow. */
static __always_inline __s64 pseudo_sum(const struct tpx_flow *flow, __u32 proto, __u32 len) {
  struct pseudo_header h = {
      .src = flow->src, .dst = flow->dst, .len = bpf_htonl(len), .proto = bpf_htonl(proto)};

  return bpf_csum_diff(0, 0, (__be32 *)&h, sizeof(h), 0);
}

/* An IPv4 header without its checksum, back to where the packet came from. */
static __always_inline struct iphdr answer_v4(const struct packet *p, __u8 proto, __u16 payload_len) {
  struct iphdr ip = {.version = 4,
                     .ihl = 5,
                     .tot_len = bpf_htons(sizeof(struct iphdr) + payload_len),
                     .frag_off = bpf_htons(IPV4_DONT_FRAGMENT),
                     .ttl = ANSWER_HOP_LIMIT,
                     .protocol = proto,
                     .saddr = p->ip.v4.daddr,
                     .daddr = p->ip.v4.saddr};

  return ip;
}

static __always_inline __u16 header_checksum(struct iphdr *ip) {
  return ~fold_sum(bpf_csum_diff(0, 0, (__be32 *)ip, sizeof(*ip), 0));
}

static __always_inline struct ipv6hdr answer_v6(const struct packet *p, __u8 proto, __u16 payload_len) {
  struct ipv6hdr ip = {.version = 6,
                       .payload_len = bpf_htons(payload_len),
                       .nexthdr = proto,
                       .hop_limit = ANSWER_HOP_LIMIT,
                       .saddr = p->ip.v6.daddr,
                       .daddr = p->ip.v6.saddr};

  return ip;
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

static __always_inline __u32 fixed_header_len(const struct packet *p) {
  return p->is_v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
}
