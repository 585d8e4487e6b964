/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a flow that begins on the gateway itself comes to, once its owner is known. */
#pragma once

#include <bpf/bpf_helpers.h>

#include "count.h"
#include "local_policy.h"
#include "workers.h"

struct attempt {
  struct tpx_flow flow;
  struct tpx_owner owner;
  struct tpx_verdict verdict;
  int steerable; /* by the mark or the source address */
  int is_ruled;  /* the rules were asked */
};

/* What the rule's fail mode makes of a flow that should be proxied and cannot be. */
static __always_inline int failed(const struct tpx_verdict *v, int steerable) {
  if (v->fail_mode == TPX_FAIL_CLOSED) return steerable ? TPX_R_LO_DOWN_CLOSED : TPX_R_LO_UNABLE_CLOSED;
  if (v->fail_mode == TPX_FAIL_RESET) return steerable ? TPX_R_LO_DOWN_RESET : TPX_R_LO_UNABLE_RESET;
  return steerable ? TPX_R_LO_DOWN_OPEN : TPX_R_LO_UNABLE_OPEN;
}

/* The reason of what is not the rules' to decide, or 0. */
static __always_inline int reason_of_address(const struct tpx_addr *to) {
  if (addr_never_proxied(to)) return TPX_R_LO_SPECIAL_ADDRESS;
  return is_local(to) ? TPX_R_LO_OWN_ADDRESS : 0;
}

/* The gateway speaks for itself: there is no client whose address could be preserved, nor a pair to keep. */
static __always_inline int has_worker(struct attempt *a) {
  a->verdict.source = TPX_SOURCE_MASQUERADE;
  a->verdict.mapping = TPX_MAPPING_ENDPOINT_INDEPENDENT;
  return tpx_pick_worker(&a->flow, &a->verdict) == WORKER_FOUND;
}

/* Asks the rules, which count it. */
static __noinline int judge_attempt(struct attempt *a) {
  struct tpx_verdict *v;

  if (!a) return TPX_R_LO_NO_POLICY;
  v = &a->verdict;
  if (tpx_eval_local(&a->flow, &a->owner, v)) return TPX_R_LO_NO_POLICY;
  a->is_ruled = 1;
  count_at(&tpx_rule_hits, v->counter, 0);
  switch (v->action) {
    case TPX_ACTION_DROP:
      return TPX_R_LO_DROP;
    case TPX_ACTION_REJECT:
      return TPX_R_LO_REJECT;
    case TPX_ACTION_REDIRECT:
      /* A socket speaks the family of the address that its process named. */
      return addr_is_v4(&v->to.addr) == addr_is_v4(&a->flow.dst) ? TPX_R_LO_REDIRECT : failed(v, 0);
    case TPX_ACTION_PROXY:
      if (a->steerable && has_worker(a)) return TPX_R_LO_PROXY;
      return failed(v, a->steerable);
    default:
      return TPX_R_LO_BYPASS;
  }
}
