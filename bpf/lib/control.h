/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What user space says to all programs while they run. */
#pragma once

#include <bpf/bpf_helpers.h>

#include "tpx_maps.bpf.h"

/* CLOCK_MONOTONIC as of the last timer tick, at most 10 ms ago: reading the clock itself costs more than two
 * look-ups. For what lives for a second or more. */
static __always_inline __u64 tick_ns(void) { return bpf_ktime_get_coarse_ns(); }

static __always_inline struct tpx_control *control_block(void) {
  __u32 zero = 0;

  return bpf_map_lookup_elem(&tpx_control, &zero);
}

/* Whether an address is the gateway's own. Mostly it is not, and one bit says so. */
static __always_inline int is_local(const struct tpx_addr *a) {
  struct tpx_control *control = control_block();
  __u32 bit = tpx_local_bit(a);

  if (control && !(control->local_filter[bit / 64] >> bit % 64 & 1)) return 0;
  return bpf_map_lookup_elem(&tpx_local, a) != 0;
}
