/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What those who listen are told of a packet, by every hook on a device alike. */
#pragma once

#include <bpf/bpf_helpers.h>

#include "events.h"
#include "flows.h"
#include "parse.h"

static __always_inline void note_rule(struct packet *p, const struct tpx_verdict *v) {
  p->is_ruled = 1;
  p->is_logged = v->logs;
  p->counter = v->counter;
  p->action = v->action;
  p->worker = is_steered(v) ? v->worker : TPX_NO_WORKER;
}

/* As note_rule, of a rule that drops. */
static __always_inline void note_drop(struct packet *p, const struct tpx_rule *rule) {
  p->is_ruled = 1;
  p->is_logged = rule->log != TPX_LOG_NONE;
  p->counter = rule->counter;
  p->action = TPX_ACTION_DROP;
  p->worker = TPX_NO_WORKER;
}

static __always_inline int report_packet(ctx_t *ctx, struct packet *p, __u32 reason, enum tpx_hook hook) {
  union outcome_word outcome = {};
  union origin_word origin = {};
  __u64 mac = 0;

  if (!is_event(reason, p->is_logged)) return 0;
  ctx_load_mac(ctx, p->link.mac);
  __builtin_memcpy(&mac, p->link.mac, sizeof(p->link.mac));
  outcome.is.reason = reason;
  outcome.is.counter = p->is_ruled ? p->counter : TPX_NO_RULE;
  outcome.is.worker = p->is_ruled ? p->worker : TPX_NO_WORKER;
  outcome.is.action = p->action;
  outcome.is.hook = hook;
  outcome.is.logged = p->is_logged;
  origin.is.ifindex = ctx_ifindex(ctx);
  origin.is.length = ctx_len(ctx);
  return tpx_report(&p->flow, outcome.word, origin.word, ctx_mark(ctx), mac);
}
