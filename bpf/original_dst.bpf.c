// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * SO_ORIGINAL_DST without connection tracking: a proxy of somebody else, to which
 * a rule redirects, asks its accepted socket where the client wanted to go. When a
 * redirected connection begins, the pair of addresses that the server will see is
 * noted with the original destination; any other that begins with the same pair
 * removes the note.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <linux/in.h>
#include <linux/in6.h>

#include "lib/family.h"
#include "lib/policy.h"

#define ALLOW 1
#define SOL_IP 0
#define SOL_IPV6 41
#define ORIGINAL_DST 80 /* SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST */

/* Runs when the socket has its own address and port, and nothing was sent yet. */
SEC("sockops")
int tpx_sock_ops(struct bpf_sock_ops *ctx) {
  struct bpf_sock *sk = ctx->sk;
  struct tpx_flow flow = {};
  struct tpx_socket *s;

  if (ctx->op != BPF_SOCK_OPS_TCP_CONNECT_CB || !sk) return 1;
  if (!is_of_this_netns(bpf_get_netns_cookie(ctx))) return 1;
  s = bpf_sk_storage_get(&tpx_sockets, sk, 0, 0);
  flow_from_sock_ops(ctx, &flow);
  if (s && s->original.port)
    bpf_map_update_elem(&tpx_originals, &flow, &s->original, BPF_ANY);
  else
    bpf_map_delete_elem(&tpx_originals, &flow);
  return 1;
}

/* A transparent proxy's socket has the original destination as its own address. */
static __always_inline int find_original(struct bpf_sock *sk, struct tpx_target *to) {
  struct tpx_flow flow = {};
  struct tpx_target *noted;

  flow_from_accepted(sk, &flow);
  noted = bpf_map_lookup_elem(&tpx_originals, &flow);
  if (noted) {
    *to = *noted;
    return 1;
  }
  if (addr_never_sends(&flow.dst) || is_local(&flow.dst)) return 0;
  to->addr = flow.dst;
  to->port = flow.dport;
  return 1;
}

SEC("cgroup/getsockopt")
int tpx_getsockopt(struct bpf_sockopt *ctx) {
  struct bpf_sock *sk = ctx->sk;
  struct tpx_target to = {};
  __u32 size;

  if (ctx->optname != ORIGINAL_DST || (ctx->level != SOL_IP && ctx->level != SOL_IPV6) || !sk) return ALLOW;
  if (!is_of_this_netns(bpf_get_netns_cookie(ctx))) return ALLOW;
  if (sk->protocol != IPPROTO_TCP || !find_original(sk, &to)) return ALLOW;
  if (addr_is_v4(&to.addr) != (ctx->level == SOL_IP)) return ALLOW;
  size = store_sockaddr(&to, ctx->optval, ctx->optval_end);
  if (!size) return ALLOW;
  ctx->optlen = size;
  ctx->retval = 0;
  return ALLOW;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
