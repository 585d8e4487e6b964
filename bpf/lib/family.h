/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The only place where kernel fields that exist once per family meet struct tpx_addr. */
#pragma once

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/in6.h>

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
static __always_inline struct bpf_sock *lookup_tcp(void *ctx, const struct tpx_flow *f) {
  struct bpf_sock_tuple t = {};
  __u32 size = tuple_of(f, &t);

  return bpf_skc_lookup_tcp(ctx, &t, size, BPF_F_CURRENT_NETNS, 0);
}

static __always_inline struct bpf_sock *lookup_udp(void *ctx, const struct tpx_flow *f) {
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

/* A connection that begins, as its server will see it. */
static __always_inline void flow_from_sock_ops(struct bpf_sock_ops *ctx, struct tpx_flow *f) {
  if (ctx->family == AF_INET) {
    __be32 local = ctx->local_ip4, remote = ctx->remote_ip4;

    asm volatile("" : "+r"(local), "+r"(remote)); /* as above */
    f->src = addr_from_v4(local);
    f->dst = addr_from_v4(remote);
  } else {
    f->src.w[0] = ctx->local_ip6[0];
    f->src.w[1] = ctx->local_ip6[1];
    f->src.w[2] = ctx->local_ip6[2];
    f->src.w[3] = ctx->local_ip6[3];
    f->dst.w[0] = ctx->remote_ip6[0];
    f->dst.w[1] = ctx->remote_ip6[1];
    f->dst.w[2] = ctx->remote_ip6[2];
    f->dst.w[3] = ctx->remote_ip6[3];
  }
  f->sport = bpf_htons(ctx->local_port);
  f->dport = bpf_htons(bpf_ntohl(ctx->remote_port));
  f->proto = IPPROTO_TCP;
}

/* What was accepted on a socket: src is the client. */
static __always_inline void flow_from_accepted(const struct bpf_sock *sk, struct tpx_flow *f) {
  if (sk->family == AF_INET) {
    __be32 local = sk->src_ip4, remote = sk->dst_ip4;

    asm volatile("" : "+r"(local), "+r"(remote)); /* as above */
    f->src = addr_from_v4(remote);
    f->dst = addr_from_v4(local);
  } else {
    f->src.w[0] = sk->dst_ip6[0];
    f->src.w[1] = sk->dst_ip6[1];
    f->src.w[2] = sk->dst_ip6[2];
    f->src.w[3] = sk->dst_ip6[3];
    f->dst.w[0] = sk->src_ip6[0];
    f->dst.w[1] = sk->src_ip6[1];
    f->dst.w[2] = sk->src_ip6[2];
    f->dst.w[3] = sk->src_ip6[3];
  }
  f->sport = sk->dst_port;
  f->dport = bpf_htons(sk->src_port);
  f->proto = sk->protocol;
}

/* Whose route is asked for. */
static __always_inline void set_route_ends(struct bpf_fib_lookup *fib, const struct tpx_flow *flow) {
  if (addr_is_v4(&flow->dst)) {
    fib->family = AF_INET;
    fib->ipv4_src = flow->src.w[3];
    fib->ipv4_dst = flow->dst.w[3];
  } else {
    fib->family = AF_INET6;
    __builtin_memcpy(fib->ipv6_src, flow->src.w, sizeof(fib->ipv6_src));
    __builtin_memcpy(fib->ipv6_dst, flow->dst.w, sizeof(fib->ipv6_dst));
  }
}

/* As the struct sockaddr of its family; the number of bytes, or 0 where they have no room. */
static __always_inline __u32 store_sockaddr(const struct tpx_target *to, void *at, void *end) {
  struct sockaddr_in6 *v6 = at;
  struct sockaddr_in *v4 = at;

  if (addr_is_v4(&to->addr)) {
    if ((void *)(v4 + 1) > end) return 0;
    __builtin_memset(v4, 0, sizeof(*v4));
    v4->sin_family = AF_INET;
    v4->sin_port = to->port;
    v4->sin_addr.s_addr = to->addr.w[3];
    return sizeof(*v4);
  }
  if ((void *)(v6 + 1) > end) return 0;
  __builtin_memset(v6, 0, sizeof(*v6));
  v6->sin6_family = AF_INET6;
  v6->sin6_port = to->port;
  __builtin_memcpy(&v6->sin6_addr, &to->addr, sizeof(to->addr));
  return sizeof(*v6);
}
