/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The only place where kernel fields that exist once per family meet struct tpx_addr. */
#pragma once

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <linux/bpf.h>

#include "address.h"

#define AF_INET 2
#define AF_INET6 10

/* Fills t and returns its size, which says the family. */
static __always_inline __u32 tuple_of(const struct tpx_flow *f, struct bpf_sock_tuple *t) {
  if (addr_is_v4(&f->src)) {
    t->ipv4.saddr = f->src.w[3];
    t->ipv4.daddr = f->dst.w[3];
    t->ipv4.sport = f->sport;
    t->ipv4.dport = f->dport;
    return sizeof(t->ipv4);
  }
  __builtin_memcpy(t->ipv6.saddr, &f->src, sizeof(t->ipv6.saddr));
  __builtin_memcpy(t->ipv6.daddr, &f->dst, sizeof(t->ipv6.daddr));
  t->ipv6.sport = f->sport;
  t->ipv6.dport = f->dport;
  return sizeof(t->ipv6);
}

/* The socket that a packet of this flow belongs to; NULL or a reference to release. */
static __always_inline struct bpf_sock *lookup_tcp(ctx_t *ctx, const struct tpx_flow *f) {
  struct bpf_sock_tuple t = {};
  __u32 size = tuple_of(f, &t);

  return bpf_skc_lookup_tcp(ctx, &t, size, BPF_F_CURRENT_NETNS, 0);
}

static __always_inline struct bpf_sock *lookup_udp(ctx_t *ctx, const struct tpx_flow *f) {
  struct bpf_sock_tuple t = {};
  __u32 size = tuple_of(f, &t);

  return bpf_sk_lookup_udp(ctx, &t, size, BPF_F_CURRENT_NETNS, 0);
}

/* To this address and no other; an AF_INET6 socket has both its forms of an IPv4 address. */
static __always_inline int is_bound_to(const struct bpf_sock *sk, const struct tpx_addr *a) {
  if (addr_is_v4(a)) {
    __be32 v4 = sk->src_ip4;

    asm volatile("" : "+r"(v4)); /* as below: no computed pointer into the socket */
    return v4 == a->w[3];
  }
  return sk->src_ip6[0] == a->w[0] && sk->src_ip6[1] == a->w[1] && sk->src_ip6[2] == a->w[2] &&
         sk->src_ip6[3] == a->w[3];
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
