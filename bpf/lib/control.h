/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What user space says to all programs while they run. */
#pragma once

#include <bpf/bpf_helpers.h>

#include "tpx_maps.bpf.h"

static __always_inline struct tpx_control *control_block(void) {
  __u32 zero = 0;

  return bpf_map_lookup_elem(&tpx_control, &zero);
}
