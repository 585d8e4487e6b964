/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Per-CPU counting by reason and by rule, and what each reason does. */
#pragma once

#include <bpf/bpf_helpers.h>

#include "tpx_maps.bpf.h"

static __always_inline void count_at(void *map, __u32 index, __u64 bytes) {
  struct tpx_count *c = bpf_map_lookup_elem(map, &index);

  if (!c) return;
  c->packets++;
  c->bytes += bytes;
}

/* What XDP has judged. */
static __always_inline void count_by_xdp(void *map, __u32 index, __u64 bytes) {
  struct tpx_count *c = bpf_map_lookup_elem(map, &index);

  if (!c) return;
  c->packets++;
  c->bytes += bytes;
  c->by_xdp++;
}

/* A switch over constants: the compiler turns it into a bit test. */
static __always_inline enum tpx_effect effect_of(__u32 reason) {
  switch (reason) {
#define TPX_REASON(symbol, hook, effect, text) \
  case TPX_R_##symbol:                         \
    return TPX_EFFECT_##effect;
#include "tpx_reasons.def"
#undef TPX_REASON
    default:
      return TPX_EFFECT_PASS;
  }
}
