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
 * Defines `int name(ctx, offset, to)`, global so that the verifier follows its ways once. Words are not
 * aligned where packets are not, which is all the same to the processors whose kernels take such programs
 * (CONFIG_HAVE_EFFICIENT_UNALIGNED_ACCESS); the compiler would copy byte by byte.
 */
#define DEFINE_LOAD(name, ctx_type, header)                                                              \
  __weak __noinline int name(ctx_type *ctx, __u32 offset, struct header *to) {                           \
    const struct header *from = ctx_ethernet(ctx);                                                       \
                                                                                                         \
    if (!to) return -1;                                                                                  \
    if (!from || offset > NEAR_HEADERS) return ctx_load(ctx, offset, to, sizeof(*to));                   \
    from = (void *)from + ETH_HLEN + (offset & NEAR_HEADERS);                                            \
    if ((void *)(from + 1) > (void *)(long)ctx->data_end) return ctx_load(ctx, offset, to, sizeof(*to)); \
    *to = *from;                                                                                         \
    return 0;                                                                                            \
  }
