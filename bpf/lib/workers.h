/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Who can take a new flow. A worker is available while its lease runs, its
 * state is serving, and its listener is in the sockmap; a listener leaves the
 * sockmap by itself when its process dies.
 */
#pragma once

#include <bpf/bpf_helpers.h>
#include <linux/bpf.h>

#include "affinity.h"
#include "policy.h"

enum availability {
  WORKERS_DOWN = 0, /* nobody is alive */
  WORKERS_BUSY = 1, /* somebody is alive, nobody takes new flows */
  WORKER_FOUND = 2,
};

/* Two rounds of multiply and fold: every bit of the flow reaches the low bits that are used. */
static __always_inline __u32 flow_hash(const struct tpx_flow *f) {
  __u64 h = (__u64)f->src.w[3] << 32 | f->dst.w[3];

  h ^= (__u64)(f->src.w[0] ^ f->dst.w[1]) << 32 | (f->src.w[1] ^ f->dst.w[0]);
  h ^= (__u64)f->src.w[2] << 32 | f->dst.w[2];
  h *= 0x9e3779b97f4a7c15ULL;
  h ^= h >> 32;
  h ^= (__u64)f->proto << 32 | (__u32)f->sport << 16 | f->dport;
  h *= 0xbf58476d1ce4e5b9ULL;
  return h >> 32 ^ h >> 17;
}

/* Which of a worker's listeners a flow comes to. */
__weak __noinline int tpx_listener_kind(const struct tpx_flow *flow, const struct tpx_verdict *v) {
  int redirected, preserved;

  if (!flow || !v) return TPX_LISTENER_TCP_MASQUERADE;
  redirected = v->action == TPX_ACTION_REDIRECT;
  preserved = v->source == TPX_SOURCE_PRESERVE;
  if (flow->proto == IPPROTO_UDP) {
    if (redirected || v->mapping == TPX_MAPPING_ADDRESS_AND_PORT_DEPENDENT) return TPX_LISTENER_UDP_PAIR;
    return preserved ? TPX_LISTENER_UDP_PRESERVE : TPX_LISTENER_UDP_MASQUERADE;
  }
  if (redirected) return TPX_LISTENER_TCP_REDIRECT;
  return preserved ? TPX_LISTENER_TCP_PRESERVE : TPX_LISTENER_TCP_MASQUERADE;
}

/* Listening sockets are freed by RCU and not counted: the release costs nothing
 * but tells the verifier that we are done. */
static __always_inline int has_listener(__u32 worker, __u32 kind) {
  __u32 index = TPX_LISTENER(worker, kind);
  struct bpf_sock *sk;

  sk = bpf_map_lookup_elem(&tpx_listeners, &index);
  if (!sk) return 0;
  bpf_sk_release(sk);
  return 1;
}

__weak __noinline int tpx_availability(__u32 worker, __u32 kind, __u64 now) {
  struct tpx_worker *w = bpf_map_lookup_elem(&tpx_workers, &worker);
  __u32 state;

  if (!w) return WORKERS_DOWN;
  state = *(volatile __u32 *)&w->state;
  if (state == TPX_WORKER_ABSENT || *(volatile __u64 *)&w->deadline_ns < now) return WORKERS_DOWN;
  if (!has_listener(worker, kind)) return WORKERS_DOWN;
  if (state == TPX_WORKER_SERVING) return WORKER_FOUND;
  /* The sessions of TCP are full: those of UDP make room by themselves, the oldest goes. */
  return state == TPX_WORKER_FULL && kind >= TPX_LISTENER_UDP_MASQUERADE ? WORKER_FOUND : WORKERS_BUSY;
}

/*
 * Starts at the flow's own worker and takes the next one that is available. No
 * branch in the loop leaves a trace in a variable (the remainder and the bits
 * do that): older verifiers (6.1) would follow each combination to the end.
 */
__weak __noinline int tpx_pick_worker(const struct tpx_flow *flow, struct tpx_verdict *v) {
  struct tpx_control *control = control_block();
  __u64 now = tick_ns();
  __u32 n, first, kind, seen = 0;

  if (!control || !flow || !v) return WORKERS_DOWN;
  n = control->n_workers;
  if (!n || n > TPX_MAX_WORKERS) return WORKERS_DOWN;
  first = flow->proto == IPPROTO_UDP ? worker_for(flow, v, n) : flow_hash(flow) % n;
  kind = tpx_listener_kind(flow, v);
  for (__u32 i = 0; i < TPX_MAX_WORKERS; i++) {
    __u32 worker;
    int a;

    if (i >= n) break;
    worker = (first + i) % n;
    a = tpx_availability(worker, kind, now);
    if (a == WORKER_FOUND) {
      v->worker = worker;
      return WORKER_FOUND;
    }
    seen |= a;
  }
  return seen & WORKERS_BUSY ? WORKERS_BUSY : WORKERS_DOWN;
}

/*
 * Before a UDP flow goes to its worker: all of its endpoint's go to one, which may be another one by now,
 * where all its sessions had ended. Written only where it changes: CPUs share the entry.
 */
static __always_inline void follow_endpoint(const struct tpx_flow *flow, struct tpx_verdict *v) {
  __u32 worker = claim_endpoint(tpx_hash_of_end(&flow->src, flow->sport), v->worker);

  if (worker != v->worker && tpx_availability(worker, tpx_listener_kind(flow, v), tick_ns()) != WORKERS_DOWN)
    v->worker = worker;
}
