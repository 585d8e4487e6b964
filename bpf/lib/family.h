/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The only place where kernel fields that exist once per family meet struct tpx_addr. */
#pragma once

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <linux/bpf.h>

#include "address.h"

#define AF_INET 2
#define AF_INET6 10

/* The socket that a packet of this flow belongs to; NULL or a reference to release. */
static __always_inline struct bpf_sock *lookup_tcp(struct __sk_buff *skb, const struct tpx_flow *f) {
  struct bpf_sock_tuple t = {};

  if (addr_is_v4(&f->src)) {
    t.ipv4.saddr = f->src.w[3];
    t.ipv4.daddr = f->dst.w[3];
    t.ipv4.sport = f->sport;
    t.ipv4.dport = f->dport;
    return bpf_skc_lookup_tcp(skb, &t, sizeof(t.ipv4), BPF_F_CURRENT_NETNS, 0);
  }
  __builtin_memcpy(t.ipv6.saddr, &f->src, sizeof(t.ipv6.saddr));
  __builtin_memcpy(t.ipv6.daddr, &f->dst, sizeof(t.ipv6.daddr));
  t.ipv6.sport = f->sport;
  t.ipv6.dport = f->dport;
  return bpf_skc_lookup_tcp(skb, &t, sizeof(t.ipv6), BPF_F_CURRENT_NETNS, 0);
}

static __always_inline void flow_from_lookup(const struct bpf_sk_lookup *ctx, struct tpx_flow *f) {
  if (ctx->family == AF_INET) {
    __be32 remote = ctx->remote_ip4, local = ctx->local_ip4;

    /* Keeps the compiler from merging both branches' reads into one through a
     * computed context pointer, which the verifier refuses. */
    asm volatile("" : "+r"(remote), "+r"(local));
    f->src = addr_from_v4(remote);
    f->dst = addr_from_v4(local);
  } else {
    f->src.w[0] = ctx->remote_ip6[0];
    f->src.w[1] = ctx->remote_ip6[1];
    f->src.w[2] = ctx->remote_ip6[2];
    f->src.w[3] = ctx->remote_ip6[3];
    f->dst.w[0] = ctx->local_ip6[0];
    f->dst.w[1] = ctx->local_ip6[1];
    f->dst.w[2] = ctx->local_ip6[2];
    f->dst.w[3] = ctx->local_ip6[3];
  }
  f->sport = ctx->remote_port;
  f->dport = bpf_htons(ctx->local_port);
  f->proto = ctx->protocol;
}
