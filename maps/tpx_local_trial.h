/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The context of tpx_try_local: a local flow that nobody began. */
#pragma once

#include "tpx_abi.h"

/* Deeper than cgroups are nested in practice; a process below gets the rules of its ancestor here. */
#define TPX_CGROUP_LEVELS 32

struct tpx_local_trial {
  struct tpx_flow flow;
  struct tpx_owner owner;          /* but for the cgroup */
  __u64 cgroup[TPX_CGROUP_LEVELS]; /* ids from the root to the process's own; 0 beyond */
};
TPX_SIZE(struct tpx_local_trial, 328);
