/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Verdicts that outlive their packet, in tpx_flows. */
#pragma once

#include <bpf/bpf_helpers.h>

#include "count.h"
#include "policy.h"

#define UDP_FLOW_S 180

static __always_inline __u32 now_s(void) { return bpf_ktime_get_ns() / 1000000000; }

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

static __always_inline struct tpx_flow reverse_of(const struct tpx_flow *f) {
  return (struct tpx_flow){
      .src = f->dst, .dst = f->src, .sport = f->dport, .dport = f->sport, .proto = f->proto};
}

static __always_inline long remember(const struct tpx_flow *flow, struct tpx_verdict *v) {
  v->seen_s = now_s();
  return bpf_map_update_elem(&tpx_flows, flow, v, BPF_ANY);
}
