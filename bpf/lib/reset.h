/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Refusing a TCP flow: its SYN becomes the RST that its destination would have
 * sent, and goes back out of the device it came in by.
 */
#pragma once

#include "answer.h"

static __always_inline long store_ip(struct __sk_buff *skb, const struct packet *p, __u32 at) {
  if (p->is_v6) {
    struct ipv6hdr ip = answer_v6(p, IPPROTO_TCP, sizeof(struct tcphdr));

    return bpf_skb_store_bytes(skb, at, &ip, sizeof(ip), BPF_F_RECOMPUTE_CSUM);
  }
  struct iphdr ip = answer_v4(p, IPPROTO_TCP, sizeof(struct tcphdr));

  ip.check = header_checksum(&ip);
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
  int unfinished = p->tcp.check == fold_sum(pseudo_sum(&p->flow, IPPROTO_TCP, tcp_len));
  __s64 sum = pseudo_sum(&p->flow, IPPROTO_TCP, sizeof(tcp));

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

  if (!p || !has_plain_header(p)) return TC_ACT_SHOT;
  ip_len = fixed_header_len(p);
  if (p->first_fragment || p->end < ip_len + p->tcp.doff * 4) return TC_ACT_SHOT;
  tcp_len = p->end - ip_len;
  link_len = link_header_len(skb, p);
  if (link_len < 0) return TC_ACT_SHOT;
  if (bpf_skb_change_tail(skb, link_len + ip_len + sizeof(struct tcphdr), 0)) return TC_ACT_SHOT;
  if (link_len && swap_link_addresses(skb)) return TC_ACT_SHOT;
  if (store_ip(skb, p, link_len) || store_tcp(skb, p, link_len + ip_len, tcp_len)) return TC_ACT_SHOT;
  return bpf_redirect(skb->ifindex, 0);
}
