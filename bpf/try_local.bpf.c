// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The judgement of local_output.bpf.c on a flow that nobody began, by an owner
 * that is told. Never attached: user space runs it, and finds the answer where
 * hooks count theirs. Of type tc, because those for system calls may sleep, and
 * such may not look into a sockmap.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "lib/local_verdict.h"
#include "lib/owner.h"
#include "tpx_local_trial.h"

SEC("tc")
int tpx_try_local(struct __sk_buff *skb) {
  const struct tpx_local_trial *trial = (void *)(long)skb->data;
  struct attempt a = {};
  int reason;

  if ((void *)(trial + 1) > (void *)(long)skb->data_end) return 0;
  a.flow = trial->flow;
  a.owner = trial->owner;
  a.steerable = 1;
#pragma unroll
  for (int level = 0; level < TPX_CGROUP_LEVELS; level++) {
    __u64 id = trial->cgroup[level];

    if (id && is_named_cgroup(id)) a.owner.cgroup = id;
  }
  reason = reason_of_address(&a.flow.dst);
  if (!reason) reason = judge_attempt(&a);
  count_at(&tpx_counters, reason, 0);
  return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
