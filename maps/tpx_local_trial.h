/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What tpx_try_local is run on in the place of a packet: a local flow that nobody began. */
#pragma once

#include "tpx_abi.h"

/* Deeper than cgroups are nested in practice; a process below gets the rules of its ancestor here. */
#define TPX_CGROUP_LEVELS 32

struct tpx_local_trial {
  __u8 link[16]; /* 0; the kernel looks for an Ethernet header here */
  struct tpx_flow flow;
  struct tpx_owner owner;          /* but for the cgroup */
  __u64 cgroup[TPX_CGROUP_LEVELS]; /* ids from the root to the process's own; 0 beyond */
};
TPX_SIZE(struct tpx_local_trial, 344);
