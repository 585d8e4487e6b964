/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a new flow comes to: the questions that every hook on a device asks alike. */
#pragma once

#include <bpf/bpf_helpers.h>
#include <linux/in.h>

#include "flows.h"
#include "parse.h"
#include "policy.h"
#include "workers.h"

/* Impossible senders; the gateway's own address coming in from outside is one. */
static __always_inline int is_martian(const struct tpx_flow *f) {
  return addr_equal(&f->src, &f->dst) || addr_never_sends(&f->src) || is_local(&f->src);
}

/* What the rule's fail mode makes of a new flow that nobody can take. */
static __always_inline int unavailable(const struct tpx_verdict *v, int availability) {
  int busy = availability == WORKERS_BUSY;

  if (v->fail_mode == TPX_FAIL_CLOSED) return busy ? TPX_R_BUSY_CLOSED : TPX_R_DOWN_CLOSED;
  if (v->fail_mode == TPX_FAIL_RESET) return busy ? TPX_R_BUSY_RESET : TPX_R_DOWN_RESET;
  return busy ? TPX_R_BUSY_OPEN : TPX_R_DOWN_OPEN;
}

static __always_inline int reason_of_verdict(const struct tpx_flow *flow, struct tpx_verdict *v) {
  int availability;

  if (v->action == TPX_ACTION_DROP) return TPX_R_RULE_DROP;
  if (v->action == TPX_ACTION_REJECT) return TPX_R_RULE_REJECT;
  if (!is_proxied(v->action) || (flow->proto != IPPROTO_TCP && flow->proto != IPPROTO_UDP))
    return TPX_R_RULE_BYPASS;
  availability = tpx_pick_worker(flow, v);
  return availability == WORKER_FOUND ? TPX_R_RULE_PROXY : unavailable(v, availability);
}

/* Whether the rules leave a flow's addresses as they are. */
static __always_inline int is_transparent(const struct tpx_verdict *v) {
  return v->action == TPX_ACTION_BYPASS ||
         (v->action == TPX_ACTION_PROXY && v->source == TPX_SOURCE_PRESERVE);
}

/* What the policy may ask for besides the flow. */
static __always_inline void note_attributes(ctx_t *ctx, struct packet *p, __u32 asked) {
  if (!asked) return;
  p->link.ifindex = ctx_ifindex(ctx);
  p->link.mark = ctx_mark(ctx);
  p->link.dscp = p->is_v6 ? (p->ip.v6.priority << 2 | p->ip.v6.flow_lbl[0] >> 6) : p->ip.v4.tos >> 2;
  if (asked & 1 << TPX_ATTR_MAC) ctx_load_mac(ctx, p->link.mac);
}

static __always_inline void note_link(ctx_t *ctx, struct packet *p) {
  note_attributes(ctx, p, asked_attributes());
}
