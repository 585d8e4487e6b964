/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * ctx_* for cgroup programs about addresses (connect, sendmsg, recvmsg,
 * getpeername). Each hook exists once per family, and the verifier lets a program
 * see the fields of its own family only; here both become struct tpx_addr. An
 * AF_INET6 socket gives an IPv4 address in its mapped form.
 */
#pragma once

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <linux/bpf.h>

#include "address.h"

enum ctx_family { CTX_V4, CTX_V6 };

/* Whom the process names, or who wrote to it. */
static __always_inline void ctx_load_peer(const struct bpf_sock_addr *ctx, enum ctx_family family,
                                          struct tpx_target *peer) {
  if (family == CTX_V4) {
    peer->addr = addr_from_v4(ctx->user_ip4);
  } else {
    peer->addr.w[0] = ctx->user_ip6[0];
    peer->addr.w[1] = ctx->user_ip6[1];
    peer->addr.w[2] = ctx->user_ip6[2];
    peer->addr.w[3] = ctx->user_ip6[3];
  }
  peer->port = ctx->user_port;
  peer->pad = 0;
}

/* `peer` has to be of the family that the socket speaks: for CTX_V4 IPv4. */
static __always_inline void ctx_store_peer(struct bpf_sock_addr *ctx, enum ctx_family family,
                                           const struct tpx_target *peer) {
  if (family == CTX_V4) {
    ctx->user_ip4 = peer->addr.w[3];
  } else {
    ctx->user_ip6[0] = peer->addr.w[0];
    ctx->user_ip6[1] = peer->addr.w[1];
    ctx->user_ip6[2] = peer->addr.w[2];
    ctx->user_ip6[3] = peer->addr.w[3];
  }
  ctx->user_port = peer->port;
}

/* The address that the socket is bound to; unspecified in the family of `peer` where it is to none. */
static __always_inline struct tpx_addr ctx_bound_address(const struct bpf_sock *sk, enum ctx_family family,
                                                         const struct tpx_addr *peer) {
  struct tpx_addr a;

  if (family == CTX_V4) return addr_from_v4(sk->src_ip4);
  a.w[0] = sk->src_ip6[0];
  a.w[1] = sk->src_ip6[1];
  a.w[2] = sk->src_ip6[2];
  a.w[3] = sk->src_ip6[3];
  return addr_is_unspecified(&a) && addr_is_v4(peer) ? addr_from_v4(0) : a;
}

/* sendmsg: whether the datagram has a source address already. */
static __always_inline int ctx_has_source(const struct bpf_sock_addr *ctx, enum ctx_family family) {
  if (family == CTX_V4) return ctx->msg_src_ip4 != 0;
  return ctx->msg_src_ip6[0] || ctx->msg_src_ip6[1] || ctx->msg_src_ip6[2] || ctx->msg_src_ip6[3];
}

/* sendmsg: from the loopback address, by which routing knows what goes to the proxy. */
static __always_inline void ctx_send_from_loopback(struct bpf_sock_addr *ctx, enum ctx_family family) {
  if (family == CTX_V4) {
    ctx->msg_src_ip4 = bpf_htonl(0x7f000001);
    return;
  }
  ctx->msg_src_ip6[0] = 0;
  ctx->msg_src_ip6[1] = 0;
  ctx->msg_src_ip6[2] = 0;
  ctx->msg_src_ip6[3] = bpf_htonl(1);
}
