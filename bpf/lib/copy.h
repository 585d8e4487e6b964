/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The headers that every packet has, out of its linear part and word by word: the
 * helpers that copy call memcpy(), whose start alone costs more than all of it.
 */
#pragma once

#include <linux/types.h>

/* How far behind the first network header others are looked for in this way. */
#define NEAR_HEADERS 0x3ff

/* By their sizes, because the verifier wants to know how much a function writes. */
struct header_8 { /* UDP */
  __be32 word[2];
};
struct header_20 { /* IPv4, TCP */
  __be32 word[5];
};
struct header_40 { /* IPv6 */
  __be32 word[10];
};

/*
 * Defines `int PREFIX_load_SIZE(ctx, offset, to)`, global so that the verifier follows its ways once. Words
 * are not aligned where packets are not, which is all the same to the processors whose kernels take such
 * programs (CONFIG_HAVE_EFFICIENT_UNALIGNED_ACCESS); the compiler would copy byte by byte.
 */
#define DEFINE_LOAD(prefix, size)                                                                        \
  __weak __noinline int prefix##_load_##size(ctx_t *ctx, __u32 offset, struct header_##size *to) {       \
    const struct header_##size *from = ctx_ethernet(ctx);                                                \
                                                                                                         \
    if (!to) return -1;                                                                                  \
    if (!from || offset > NEAR_HEADERS) return ctx_load(ctx, offset, to, sizeof(*to));                   \
    from = (void *)from + ETH_HLEN + (offset & NEAR_HEADERS);                                            \
    if ((void *)(from + 1) > (void *)(long)ctx->data_end) return ctx_load(ctx, offset, to, sizeof(*to)); \
    *to = *from;                                                                                         \
    return 0;                                                                                            \
  }                                                                                                      \
  static __always_inline int ctx_load_##size(ctx_t *ctx, __u32 offset, void *to) {                       \
    return prefix##_load_##size(ctx, offset, to);                                                        \
  }

/* For who has defined ctx_t, ctx_ethernet() and ctx_load(). */
#define DEFINE_LOADS(prefix) \
  DEFINE_LOAD(prefix, 8)     \
  DEFINE_LOAD(prefix, 20)    \
  DEFINE_LOAD(prefix, 40)
