/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * How fast one source may begin flows through one rule: a bucket of `burst`
 * flows that fills by `rate` a second (GCRA: all that is kept is when it will
 * be full again). Where tpx_sources is full, the source that was not seen for
 * longest is forgotten and would begin with a full bucket.
 */
#pragma once

#include <bpf/bpf_helpers.h>

#include "policy.h"

#define SECOND_NS 1000000000ULL

/* Of CPUs that race for a bucket. Who loses more often passes: others have just found enough in it. */
#define TAKE_ATTEMPTS 4

struct limit {
  __u32 interval_ns;
  __u64 burst_ns;
  __u64 penalty_ns;
};

/*
 * A reload since the verdict may have put another rule in this place, which has
 * another counter; then this one flow is not limited.
 */
static __always_inline int limit_of(const struct tpx_verdict *v, struct limit *limit) {
  const struct tpx_tables *t = tables_of(live_generation());
  const struct tpx_rule *rule;

  if (!t) return 0;
  rule = &t->rules[(v->limit - 1) & (TPX_MAX_RULES - 1)];
  if (rule->counter != v->counter || !rule->rate) return 0;
  limit->interval_ns = SECOND_NS / rule->rate;
  limit->burst_ns = (__u64)rule->burst * limit->interval_ns;
  limit->penalty_ns = rule->penalty_s * SECOND_NS;
  return 1;
}

/* A host may have as many addresses of its /64 as it likes. */
static __always_inline struct tpx_source_key source_key(const struct tpx_addr *src, __u32 counter) {
  struct tpx_source_key key = {.addr = *src, .counter = counter};

  if (!addr_is_v4(src)) key.addr.w[2] = key.addr.w[3] = 0;
  return key;
}

/* Takes one flow out of the bucket; 0 when it is empty. */
static __always_inline int take(struct tpx_source *source, const struct limit *limit, __u64 now) {
  __u64 empty = now + limit->burst_ns;

#pragma unroll
  for (int i = 0; i < TAKE_ATTEMPTS; i++) {
    __u64 seen = *(volatile __u64 *)&source->full_ns;
    __u64 next = (seen < now ? now : seen) + limit->interval_ns;

    if (next > empty) {
      /* A reload has made the bucket smaller than what was taken out of it. */
      if (seen > empty) __sync_val_compare_and_swap(&source->full_ns, seen, empty);
      return 0;
    }
    if (__sync_val_compare_and_swap(&source->full_ns, seen, next) == seen) return 1;
  }
  return 1;
}

static __always_inline int is_in_penalty(const struct tpx_source *source, const struct limit *limit,
                                         __u64 now) {
  __u64 denied = *(volatile __u64 *)&source->denied_ns;

  return denied && limit->penalty_ns && (__s64)(now - denied) < (__s64)limit->penalty_ns;
}

/* Whether tpx_exceeds_limit would say TPX_R_RATE_PENALTY. Takes nothing out of any bucket. */
__weak __noinline int tpx_in_penalty(const struct tpx_flow *flow, const struct tpx_verdict *v) {
  struct tpx_source_key key;
  struct tpx_source *source;
  struct limit limit;

  if (!flow || !v || !limit_of(v, &limit)) return 0;
  key = source_key(&flow->src, v->counter);
  source = bpf_map_lookup_elem(&tpx_sources, &key);
  return source && is_in_penalty(source, &limit, bpf_ktime_get_ns());
}

/*
 * For a flow that is about to begin by a rule with a limit: 0, or the reason why
 * it does not begin. Attempts during a penalty do not prolong it.
 */
__weak __noinline int tpx_exceeds_limit(const struct tpx_flow *flow, const struct tpx_verdict *v) {
  struct tpx_source_key key;
  struct tpx_source *source;
  struct limit limit;
  __u64 now = bpf_ktime_get_ns();

  if (!flow || !v || !limit_of(v, &limit)) return 0;
  key = source_key(&flow->src, v->counter);
  source = bpf_map_lookup_elem(&tpx_sources, &key);
  if (!source) {
    struct tpx_source fresh = {.full_ns = now + limit.interval_ns};

    if (!bpf_map_update_elem(&tpx_sources, &key, &fresh, BPF_NOEXIST)) return 0;
    source = bpf_map_lookup_elem(&tpx_sources, &key);
    if (!source) return 0;
  }
  if (is_in_penalty(source, &limit, now)) return TPX_R_RATE_PENALTY;
  if (take(source, &limit, now)) return 0;
  if (limit.penalty_ns) *(volatile __u64 *)&source->denied_ns = now;
  return TPX_R_RATE_LIMITED;
}
