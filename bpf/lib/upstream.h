/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Answers to the sockets of UDP sessions (tpx_upstreams) go on to their clients without the worker, from the
 * first one on: most sessions have only one. What they answer has a verdict in tpx_flows, which is as good as
 * asking the worker; who was not asked (full cone, RFC 4787) is the worker's, as is everything that is in the
 * way of tc.
 */
#pragma once

#include "translate.h"

/* What the socket's session makes of an answer. */
struct heard {
  struct tpx_flow as;
  __u32 worker;
  __u32 by_one_server; /* the socket hears no other */
};

/* Loads before it come before those behind it: a swap that fails or changes nothing is the barrier that BPF
 * has. */
static __always_inline int is_turn(struct tpx_upstream *u, __u32 turn) {
  return __sync_val_compare_and_swap(&u->turn, turn, turn) == turn;
}

/* The worker may be changing it: as long as the turn is the same, what was read belongs together. */
static __always_inline int read_upstream(struct tpx_upstream *u, const struct tpx_flow *answer,
                                         struct heard *h) {
  __u32 turn = *(volatile __u32 *)&u->turn;

  if (!(turn & 1) || !is_turn(u, turn)) return -1;
  h->as = *answer;
  h->as.dst = u->client;
  h->as.dport = u->client_port;
  h->worker = u->worker;
  h->by_one_server = u->server_port != 0;
  if (h->by_one_server) {
    h->as.src = u->server;
    h->as.sport = u->server_port;
  }
  if (!addr_is_unspecified(&u->own) && !addr_equal(&u->own, &answer->dst)) return -1;
  return is_turn(u, turn) ? 0 : -1;
}

/* Who answers has to be whom the session sends to. */
static __always_inline int is_whom_it_asks(const struct tpx_flow *answer, const struct heard *h,
                                           const struct tpx_verdict *v) {
  if (v->action == TPX_ACTION_REDIRECT)
    return h->by_one_server && addr_equal(&v->to.addr, &answer->src) && v->to.port == answer->sport;
  if (v->action != TPX_ACTION_PROXY || v->source == TPX_SOURCE_PRESERVE) return 0;
  if (v->mapping != TPX_MAPPING_ADDRESS_AND_PORT_DEPENDENT) return !h->by_one_server;
  return h->by_one_server && addr_equal(&h->as.src, &answer->src) && h->as.sport == answer->sport;
}

/* Everybody who asks tpx_flows has to see that the flow lives. */
static __always_inline int is_expected(const struct tpx_flow *answer, const struct heard *h, __u32 now) {
  struct tpx_flow asked = reverse_of(&h->as);
  struct tpx_verdict *v = bpf_map_lookup_elem(&tpx_flows, &asked);

  if (!v || age_s(v, now) > udp_flow_s() || !is_steered(v) || v->worker != h->worker || v->relayed ||
      v->forward != TPX_FORWARD_AUTO || !is_whom_it_asks(answer, h, v))
    return 0;
  note_seen(&asked, v, now);
  return 1;
}

/* What comes by another device than what goes there leaves by is the stack's, where rp_filter may judge. */
static __always_inline int came_by_its_route(struct __sk_buff *skb, const struct packet *p,
                                             struct bpf_fib_lookup *fib) {
  struct tpx_flow back = reverse_of(&p->flow);
  __u32 device;
  long rc;

  ask_about(skb, p, &back, fib);
  fib->tot_len = 0;
  rc = bpf_fib_lookup(skb, fib, sizeof(*fib), 0);
  device = fib->ifindex;
  __builtin_memset(fib, 0, sizeof(*fib));
  return rc == BPF_FIB_LKUP_RET_SUCCESS && device == skb->ifindex;
}

static __always_inline int is_neighbours_turn(const struct __sk_buff *skb, const struct tpx_flow *as,
                                              __u32 now) {
  __u32 index = (tpx_hash_of_end(&as->dst, 0) >> 32) % TPX_RELAYED;
  __u32 *relayed_s = bpf_map_lookup_elem(&tpx_relayed, &index);

  return !relayed_s || is_for_the_stack_to_see(skb, relayed_s, now);
}

/* As forward_translated(). */
static __noinline int forward_answer(struct __sk_buff *skb, struct packet *p) {
  struct bpf_fib_lookup fib = {};
  struct tpx_upstream *u;
  struct heard h;
  __u64 now_ns = tick_ns();
  __u32 index, now = now_ns / 1000000000;

  if (!p || !is_local(&p->flow.dst)) return TC_ACT_UNSPEC;
  index = TPX_UPSTREAM((__u32) !!p->is_v6, bpf_ntohs(p->flow.dport));
  u = bpf_map_lookup_elem(&tpx_upstreams, &index);
  if (!u || !is_for_tc(TPX_FORWARD_AUTO, now) || read_upstream(u, &p->flow, &h) ||
      addr_is_v4(&h.as.dst) == p->is_v6 || !is_alive(h.worker) || !is_expected(&p->flow, &h, now))
    return TC_ACT_UNSPEC;
  if (!came_by_its_route(skb, p, &fib) || find_way(skb, p, &h.as, &fib) ||
      !may_leave_by(TPX_FORWARD_AUTO, fib.ifindex) || is_neighbours_turn(skb, &h.as, now))
    return TC_ACT_UNSPEC;
  u->answered_ms = now_ns / 1000000;
  u->answers++;
  return send_as(skb, p, &h.as, &fib);
}
