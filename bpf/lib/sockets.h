/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The socket table is the exact memory of TCP flows: whatever a local socket
 * owns is ours, whatever none owns began direct and stays direct. Of UDP it
 * tells which addresses and ports the proxy has borrowed.
 */
#pragma once

#include <bpf/bpf_helpers.h>
#include <linux/bpf.h>

#include "config.h"
#include "family.h"
#include "flows.h"
#include "kernel_layout.h"
#include "parse.h"
#include "workers.h"

enum ownership {
  OWNED_BY_NONE,
  OWNED_BY_SOCKET,
  OWNED_BY_TIME_WAIT,
};

static __always_inline void set_guard(__u32 value) {
  __u32 zero = 0, *guard = bpf_map_lookup_elem(&tpx_guard, &zero);

  if (guard) *(volatile __u32 *)guard = value;
}

static __always_inline int guard_is_set(void) {
  __u32 zero = 0, *guard = bpf_map_lookup_elem(&tpx_guard, &zero);

  return guard && *(volatile __u32 *)guard;
}

/*
 * Where no established socket matches, the kernel goes on to the listeners and
 * runs sk_lookup programs, ours included. The guard makes ours answer at once:
 * a listener is no owner. Same CPU, softirqs off, so nobody else sees it set.
 */
static __noinline int tcp_owner(ctx_t *ctx, const struct tpx_flow *flow) {
  struct bpf_sock *sk;
  __u32 state;

  if (!flow || tpx_sees_no_socket) return OWNED_BY_NONE;
  set_guard(1);
  sk = lookup_tcp(ctx, flow);
  set_guard(0);
  if (!sk) return OWNED_BY_NONE;
  state = sk->state;
  bpf_sk_release(sk);
  if (state == BPF_TCP_LISTEN) return OWNED_BY_NONE;
  return state == BPF_TCP_TIME_WAIT ? OWNED_BY_TIME_WAIT : OWNED_BY_SOCKET;
}

/* Of the proxy's, towards a server, and nothing came back on it. */
static __always_inline int is_unanswered_upstream(struct bpf_sock *sk, const struct tcp_sock *tcp) {
  struct bpf_sock *full = bpf_sk_fullsock(sk);

  return full && (full->mark & tpx_mark_mask) == tpx_own_mark && !tcp->bytes_received;
}

/*
 * A SYN whose tuple a socket has: mostly the client's, sent again. But where the
 * client's address is preserved, what another gateway makes of our own connection
 * looks the same. Then the other end of the tuple is an upstream socket of ours,
 * and the SYN has fewer hops left than that socket sends with; the client's has more.
 */
static __noinline int is_own_syn(ctx_t *ctx, struct packet *p) {
  struct tpx_flow reversed;
  struct tcp_sock *tcp;
  struct bpf_sock *sk;
  int sent_with = -1;

  if (!p || p->tcp.ack || p->tcp.fin || p->tcp.rst) return 0;
  reversed = reverse_of(&p->flow);
  set_guard(1);
  sk = lookup_tcp(ctx, &reversed);
  set_guard(0);
  if (!sk) return 0;
  tcp = bpf_skc_to_tcp_sock(sk);
  if (tcp && is_unanswered_upstream(sk, tcp)) sent_with = hop_limit_of(tcp, p->is_v6);
  bpf_sk_release(sk);
  return (p->is_v6 ? p->ip.v6.hop_limit : p->ip.v4.ttl) < sent_with;
}

/*
 * The proxy binds to a foreign address and port to speak for it; whoever listens
 * on every address owns nothing of what is addressed to others. Here the guard
 * makes our sk_lookup program pass, because the kernel looks for bound sockets
 * that are not connected only after it.
 *
 * Which side the socket has to be of is said by its mark: our own towards servers.
 * Sockets that answer clients from a server's address bear the steering mark, as
 * on TCP's side of the clients. They own what is said about their datagrams, and
 * nothing that is addressed to the server.
 */
static __noinline int udp_owner(ctx_t *ctx, const struct tpx_flow *flow, __u32 mark) {
  struct bpf_sock *sk;
  int bound;

  if (!flow || tpx_sees_no_socket) return OWNED_BY_NONE;
  set_guard(1);
  sk = lookup_udp(ctx, flow);
  set_guard(0);
  if (!sk) return OWNED_BY_NONE;
  bound = is_bound_to(sk, &flow->dst) && (sk->mark & tpx_mark_mask) == mark;
  bpf_sk_release(sk);
  return bound ? OWNED_BY_SOCKET : OWNED_BY_NONE;
}

/*
 * Under a SYN flood the handshake's memory is in the client's ACK. Any listener
 * can judge it: they form one SO_REUSEPORT group, which shares the time of the
 * last overflow, and the secret is the namespace's.
 */
__weak __noinline int tpx_is_valid_cookie(struct packet *p) {
  struct tpx_control *control = control_block();
  struct bpf_sock *sk = 0;
  long verdict;

  if (!p || !control || !p->tcp.ack || p->tcp.syn || p->tcp.rst) return 0;
  for (__u32 worker = 0; worker < TPX_MAX_WORKERS; worker++) {
    __u32 index = TPX_LISTENER(worker, TPX_LISTENER_TCP_MASQUERADE);

    if (worker >= control->n_workers) break;
    sk = bpf_map_lookup_elem(&tpx_listeners, &index);
    if (sk) break;
  }
  if (!sk) return 0;
  verdict = bpf_tcp_check_syncookie(sk, &p->ip, p->is_v6 ? sizeof(p->ip.v6) : sizeof(p->ip.v4), &p->tcp,
                                    sizeof(p->tcp));
  bpf_sk_release(sk);
  return verdict == 0;
}
