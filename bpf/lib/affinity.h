/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which worker the UDP flows of a client's endpoint go to (tpx_affinity.h). */
#pragma once

#include <bpf/bpf_helpers.h>

#include "control.h"
#include "tpx_maps.bpf.h"

/* What is as old is renewed, and not before: CPUs need not fight for it while datagrams come. */
#define RENEW_AFFINITY (TPX_AFFINITY_HOLD / 4)

/* Another CPU, or an interrupt, may have seen a later tick than we. */
#define TICK_AHEAD 1000

/* Of two workers that belong together each is the one to take the other's for so long: 128 times 2^20 ns. */
#define LEAD_BITS 7

static __always_inline __u32 affinity_time(void) { return tick_ns() >> 20; }

static __always_inline int is_within_last(__u32 time, __u32 now, __u32 units) {
  return now + TICK_AHEAD - time < units + TICK_AHEAD;
}

static __always_inline int is_taken(__u64 word, __u32 now) {
  return tpx_affinity_sessions(word) || is_within_last(tpx_affinity_seen(word), now, TPX_AFFINITY_HOLD);
}

static __always_inline int may_take(const struct tpx_worker *w) {
  return *(volatile __u32 *)&w->rest != TPX_WORKER_BUSY && *(volatile __u32 *)&w->state == TPX_WORKER_SERVING;
}

/* By how much one of the two may have more than the other: their limits are halves of a whole. */
static __always_inline int has_many_more(const struct tpx_worker *one, const struct tpx_worker *other) {
  __u64 more = *(volatile __u64 *)&one->counter[TPX_C_UDP_SESSIONS];
  __u64 fewer = *(volatile __u64 *)&other->counter[TPX_C_UDP_SESSIONS];

  return more > fewer + fewer / 16 + 16;
}

/* The endpoint's own worker; while that one sleeps, the one of the two whose turn it is. */
static __always_inline __u32 choose_worker(__u32 own, __u32 n, __u32 now) {
  __u32 leader = (own & ~1) | (now >> LEAD_BITS & 1);
  struct tpx_worker *mine, *its;

  if (leader == own || leader >= n) return own;
  mine = bpf_map_lookup_elem(&tpx_workers, &own);
  its = bpf_map_lookup_elem(&tpx_workers, &leader);
  if (!mine || !its || *(volatile __u32 *)&mine->rest != TPX_WORKER_ASLEEP) return own;
  return may_take(its) && !has_many_more(its, mine) ? leader : own;
}

/* Only where workers open sessions and tc carries them on: what a worker relays itself stays spread by the
 * hash for as long as it lives. */
static __always_inline int may_be_packed(const struct tpx_verdict *v) {
  struct tpx_control *control = control_block();

  return v->forward == TPX_FORWARD_AUTO && control && !*(volatile __u32 *)&control->watchers;
}

static __always_inline struct tpx_affinity *affinity_of(__u64 hash) {
  __u32 index = hash % TPX_AFFINITIES;

  return bpf_map_lookup_elem(&tpx_affinities, &index);
}

/* Whom a new flow would go to. Nothing is noted yet. */
static __always_inline __u32 worker_for(const struct tpx_flow *flow, const struct tpx_verdict *v, __u32 n) {
  __u64 hash = tpx_hash_of_end(&flow->src, flow->sport), word;
  struct tpx_affinity *affinity = affinity_of(hash);
  __u32 own = (hash >> 32) % n, now = affinity_time();

  word = affinity ? *(volatile __u64 *)&affinity->word : 0;
  if (is_taken(word, now)) return tpx_affinity_worker(word) % n;
  return may_be_packed(v) ? choose_worker(own, n, now) : own;
}

/* Who has the endpoint whose datagram is about to go to `worker`; that one, if nobody had it. Who loses
 * against another CPU, or a session that ends, looks once more. */
static __noinline __u32 claim_endpoint(__u64 hash, __u32 worker) {
  struct tpx_affinity *affinity = affinity_of(hash);
  __u32 now = affinity_time();

  if (!affinity) return worker;
#pragma unroll
  for (int i = 0; i < 2; i++) {
    __u64 word = *(volatile __u64 *)&affinity->word;

    if (is_taken(word, now)) worker = tpx_affinity_worker(word);
    if (is_within_last(tpx_affinity_seen(word), now, RENEW_AFFINITY)) break;
    if (__sync_val_compare_and_swap(&affinity->word, word,
                                    tpx_affinity_word(worker, tpx_affinity_sessions(word), now)) == word)
      break;
  }
  return worker;
}
