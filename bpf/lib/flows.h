/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Verdicts that outlive their packet, in tpx_flows. */
#pragma once

#include <bpf/bpf_helpers.h>

#include "count.h"
#include "policy.h"

#define UDP_FLOW_S 180

static __always_inline __u32 now_s(void) { return tick_ns() / 1000000000; }

/* Seconds since; negative where another CPU has just stored a later one. */
static __always_inline __s32 age_s(const struct tpx_verdict *v, __u32 now) { return now - v->seen_s; }

/* A UDP flow that is silent for longer is a new one. */
static __always_inline __s32 udp_flow_s(void) {
  struct tpx_control *control = control_block();
  __u32 seconds = control ? control->udp_flow_s : 0;

  return seconds ? seconds : UDP_FLOW_S;
}

static __always_inline int is_proxied(__u8 action) {
  return action == TPX_ACTION_PROXY || action == TPX_ACTION_REDIRECT;
}

/* What a verdict has come to: one that says proxy may have found no worker. */
static __always_inline int is_steered(const struct tpx_verdict *v) {
  return effect_of(v->reason) == TPX_EFFECT_STEER;
}

/* The way of what an upstream socket of ours receives: steered, and past the listeners. */
static __always_inline int is_for_upstream(const struct tpx_verdict *v) {
  return is_steered(v) && !is_proxied(v->action);
}

/* Of what is proxied only sessions are forwarded, not flows that found no worker. */
static __always_inline int is_forwarded(const struct tpx_verdict *v) {
  return v->forward && v->action == TPX_ACTION_BYPASS;
}

static __always_inline struct tpx_flow reverse_of(const struct tpx_flow *f) {
  return (struct tpx_flow){
      .src = f->dst, .dst = f->src, .sport = f->dport, .dport = f->sport, .proto = f->proto};
}

/* When a flow or one of the same hash was noted last; a flow has the hash of its answers. */
static __always_inline __u32 *last_noted(const struct tpx_flow *f) {
  __u64 hash = tpx_hash_of_end(&f->src, f->sport) + tpx_hash_of_end(&f->dst, f->dport);
  __u32 index = (hash >> 36) % TPX_RECENT_LINES;
  struct tpx_recent *line = bpf_map_lookup_elem(&tpx_recent, &index);

  return line ? &line->seen_s[hash >> 60] : 0;
}

/* Before the flow itself is noted as seen, or somebody might miss it. CPUs share the entry. */
static __always_inline void note_recent(const struct tpx_flow *f, __u32 now) {
  __u32 *noted = last_noted(f);

  if (noted && *noted != now) *noted = now;
}

/* Whether tpx_flows may have the flow or its answers: mostly nothing was ever noted in the place, and the
 * clock need not be read. The second more is for CPUs that note it at the same time. */
static __always_inline int may_be_noted(const struct tpx_flow *f) {
  __u32 *noted = last_noted(f);

  return !noted || (*noted && (__s32)(now_s() - *noted) <= udp_flow_s() + 1);
}

static __always_inline long remember(const struct tpx_flow *flow, struct tpx_verdict *v) {
  v->seen_s = now_s();
  note_recent(flow, v->seen_s);
  return bpf_map_update_elem(&tpx_flows, flow, v, BPF_ANY);
}

static __always_inline void note_seen(const struct tpx_flow *flow, struct tpx_verdict *v, __u32 now) {
  if (v->seen_s == now) return;
  note_recent(flow, now);
  v->seen_s = now;
}
