/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The socket table is the exact memory of TCP flows: whatever a local socket
 * owns is ours, whatever none owns began direct and stays direct.
 */
#pragma once

#include <bpf/bpf_helpers.h>
#include <linux/bpf.h>

#include "family.h"
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
static __noinline int tcp_owner(struct __sk_buff *skb, const struct tpx_flow *flow) {
  struct bpf_sock *sk;
  __u32 state;

  if (!flow) return OWNED_BY_NONE;
  set_guard(1);
  sk = lookup_tcp(skb, flow);
  set_guard(0);
  if (!sk) return OWNED_BY_NONE;
  state = sk->state;
  bpf_sk_release(sk);
  if (state == BPF_TCP_LISTEN) return OWNED_BY_NONE;
  return state == BPF_TCP_TIME_WAIT ? OWNED_BY_TIME_WAIT : OWNED_BY_SOCKET;
}

/*
 * Under a SYN flood the handshake's memory is in the client's ACK. Any listener
 * can judge it: they form one SO_REUSEPORT group, which shares the time of the
 * last overflow, and the secret is the namespace's.
 */
static __noinline int is_valid_cookie(struct packet *p) {
  struct bpf_sock *sk = 0;
  __u32 index = 0;
  long verdict;

  if (!p || !p->tcp.ack || p->tcp.syn || p->tcp.rst) return 0;
  for (int worker = 0; worker < 4 && !sk; worker++) {
    index = TPX_LISTENER(worker, TPX_SOURCE_MASQUERADE);
    sk = bpf_map_lookup_elem(&tpx_listeners, &index);
  }
  if (!sk) return 0;
  verdict = bpf_tcp_check_syncookie(sk, &p->ip, p->is_v6 ? sizeof(p->ip.v6) : sizeof(p->ip.v4), &p->tcp,
                                    sizeof(p->tcp));
  bpf_sk_release(sk);
  return verdict == 0;
}
