/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Flow and owner → verdict, for flows that begin on the gateway. As tpx_evaluate, which knows the link
 * instead. */
#pragma once

#include "policy.h"

static __noinline int keep_common(struct tpx_bits *mine, const struct tpx_bits *others) {
  if (!mine || !others) return 0;
#pragma unroll
  for (int i = 0; i < TPX_RULE_WORDS; i++) mine->word[i] &= others->word[i];
  /* A word without a bit left costs a look at it, no more. */
  mine->summary &= others->summary;
  return 0;
}

static __always_inline void keep_by_value(const struct tpx_tables *t, __u32 generation, __u32 attribute,
                                          __u64 value, struct tpx_bits *mine) {
  if (asks_for(t, attribute)) keep_common(mine, rules_of_value(t, generation, attribute, value, 0));
}

static __noinline int keep_by_owner(const struct tpx_tables *t, __u32 generation,
                                    const struct tpx_owner *owner, struct tpx_bits *mine) {
  keep_by_value(t, generation, TPX_ATTR_UID, owner->uid, mine);
  keep_by_value(t, generation, TPX_ATTR_GID, owner->gid, mine);
  keep_by_value(t, generation, TPX_ATTR_CGROUP, owner->cgroup, mine);
  if (asks_for(t, TPX_ATTR_EXE))
    keep_common(mine, rules_of_value(t, generation, TPX_ATTR_EXE, owner->exe_inode, owner->exe_device));
  return 0;
}

/* Returns 0 and fills v, or -1 when there is no policy to ask. */
__weak __noinline int tpx_eval_local(const struct tpx_flow *flow, const struct tpx_owner *owner,
                                     struct tpx_verdict *v) {
  __u32 generation = live_generation();
  struct tpx_tables *t = tables_of(generation);
  struct candidates c;
  struct tpx_bits mine;
  __u32 rule;

  if (!t || !flow || !owner || !v) return -1;
  mine = *bits_of(t, t->local_proto_class[flow->proto]);
  keep_by_owner(t, generation, owner, &mine);
  c.by_device = c.by_mac = &mine;
  c.class[BY_SRC] = prefix_class(t, generation, TPX_DIM_SRC, &flow->src);
  c.class[BY_DST] = prefix_class(t, generation, TPX_DIM_DST, &flow->dst);
  add_by_ports(t, flow, &c);
  c.class[BY_PROTO] = t->local_proto_class[flow->proto];
  c.class[BY_DSCP] = c.class[BY_MARK] = c.class[BY_SRC];
  rule = first_common_rule(t, &c);
  if (rule >= TPX_MAX_RULES) return -1;
  verdict_of_rule(t, rule, v);
  return 0;
}
