// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The policy asked about flows that are there already, by somebody who has no
 * packet of them. Never attached: user space runs it, on maps of its own.
 *
 * Nothing is left of the link that a flow's first packet came by, but for the
 * device where tpx_flows has it. Without it the verdict is that of the rules that
 * do not ask, as in sk_lookup, and the answer says whether others might come first.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "lib/policy.h"
#include "tpx_judge.h"

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(map_flags, BPF_F_MMAPABLE);
  __uint(max_entries, TPX_QUESTIONS);
  __type(key, __u32);
  __type(value, struct tpx_question);
} tpx_questions SEC(".maps");

/* What is not known of any flow that is there already. */
#define ASKED_OF_PACKET (1 << TPX_ATTR_MAC | 1 << TPX_ATTR_DSCP | 1 << TPX_ATTR_MARK)

/* The counter of the first rule that accepts the flow by some link or other, or -1. */
__noinline int tpx_any_link(const struct tpx_flow *flow) {
  __u32 generation = live_generation(), rule;
  struct tpx_tables *t = tables_of(generation);
  struct candidates c;

  if (!t || !flow) return -1;
  add_by_tuple(t, generation, flow, &c);
  c.class[BY_SPORT] = t->port_class[TPX_DIM_SPORT][bpf_ntohs(flow->sport)];
  c.class[BY_DPORT] = t->port_class[TPX_DIM_DPORT][bpf_ntohs(flow->dport)];
  c.class[BY_DSCP] = c.class[BY_MARK] = c.class[BY_SRC];
  c.by_device = c.by_mac = bits_of(t, c.class[BY_SRC]);
  rule = first_common_rule(t, &c);
  return rule < TPX_MAX_RULES ? t->rules[rule].counter : -1;
}

static __noinline int answer(struct tpx_question *q) {
  struct tpx_link link = {};

  if (!q) return 0;
  link.ifindex = q->ifindex;
  if (link.ifindex && !(asked_attributes() & ASKED_OF_PACKET)) {
    q->answered = !tpx_evaluate(&q->flow, &link, &q->verdict);
    q->certain = 1;
    return 0;
  }
  q->answered = !tpx_evaluate(&q->flow, 0, &q->verdict);
  q->certain = tpx_any_link(&q->flow) == q->verdict.counter;
  return 0;
}

SEC("syscall")
int tpx_judge(void *ctx __attribute__((unused))) {
  for (__u32 i = 0; i < TPX_QUESTIONS; i++) {
    __u32 index = i;
    struct tpx_question *q = bpf_map_lookup_elem(&tpx_questions, &index);

    if (!q || !q->asked) break;
    answer(q);
  }
  return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
