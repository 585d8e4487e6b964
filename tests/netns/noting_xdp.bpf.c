// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Somebody else's XDP program, which leaves notes like ours, with a key of its own: each packet is direct. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "lib/config.h"
#include "tpx_event.h"

#define tpx_note_key KEY
#include "lib/note.h"

SEC("xdp")
int noting(struct xdp_md *ctx) {
  struct note note = {.reason = TPX_R_DIRECT, .counter = TPX_NO_RULE}, *at;
  const struct ethhdr *eth;
  const struct ipv6hdr *ip;
  const __be32 *ports;

  if (bpf_xdp_adjust_meta(ctx, -(int)sizeof(note))) return XDP_ABORTED;
  at = (void *)(long)ctx->data_meta;
  eth = (void *)(long)ctx->data;
  ip = (void *)(eth + 1);
  if ((void *)(at + 1) > (void *)eth || (void *)(ip + 1) + 4 > (void *)(long)ctx->data_end) return XDP_PASS;
  if (eth->h_proto == bpf_htons(ETH_P_IP)) {
    const struct iphdr *v4 = (void *)ip;

    ports = (void *)(v4 + 1);
    note.word = word_of_v4(&note, v4, v4->protocol == IPPROTO_UDP ? *ports : 0, ctx->ingress_ifindex);
  } else {
    ports = (void *)(ip + 1);
    note.word = word_of_v6(&note, ip, ip->nexthdr == IPPROTO_UDP ? *ports : 0, ctx->ingress_ifindex);
  }
  *at = note;
  return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
