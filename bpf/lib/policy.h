/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Flow → verdict: one class per dimension, AND of the classes' rule sets, the
 * lowest bit wins. The cost does not depend on the number of rules.
 *
 * A generation is read once (tpx_control.generation) and its slot is used for
 * every lookup, so a packet never sees a mix; the publisher waits for a grace
 * period before it touches a slot again.
 *
 * The functions named tpx_* are global: the verifier judges each once by itself
 * (pointer arguments since Linux 5.11) instead of once per caller and path.
 * Weak, because every program that uses them brings a copy to the linker.
 */
#pragma once

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <linux/in.h>

#include "address.h"
#include "tpx_maps.bpf.h"

static __always_inline struct tpx_control *control_block(void) {
  __u32 zero = 0;

  return bpf_map_lookup_elem(&tpx_control, &zero);
}

static __always_inline __u32 live_generation(void) {
  struct tpx_control *control = control_block();

  return control ? *(volatile __u32 *)&control->generation : 0;
}

/* The tables of a generation, or NULL when nothing is published. */
static __always_inline struct tpx_tables *tables_of(__u32 generation) {
  __u32 slot = generation & 1, zero = 0;
  void *inner;

  if (!generation) return 0;
  inner = bpf_map_lookup_elem(&tpx_tables, &slot);
  return inner ? bpf_map_lookup_elem(inner, &zero) : 0;
}

/* The mask is for the verifier; the compiler of policies keeps to the limit. */
static __always_inline const struct tpx_bits *bits_of(const struct tpx_tables *t, __u32 class) {
  return &t->bits[class & (TPX_MAX_CLASSES - 1)];
}

/* Follows the bytes of an address from byte `from` on; the last step, which may be TPX_STEP_SEARCH. */
static __always_inline __u16 walk_blocks(const struct tpx_tables *t, __u16 step, const struct tpx_addr *addr,
                                         int from) {
#pragma unroll
  for (int i = 0; i < 16; i++) {
    if (i < from) continue;
    if (!(step & TPX_STEP_BLOCK) || step == TPX_STEP_SEARCH) break;
    step = t->block[step & (TPX_MAX_BLOCKS - 1)][((const __u8 *)addr)[i]];
  }
  return step;
}

static __always_inline const struct tpx_page *page_of(void *pages, __u32 index) {
  return bpf_map_lookup_elem(pages, &index);
}

/* The class of an IPv4 address by the pages; negative where they are damaged. */
static __noinline int search_v4(void *pages, __u32 v4) {
  const struct tpx_page *page;
  __u32 at, index = v4 >> 16, base, count, last = v4 << 16 | 0xffff;

  page = page_of(pages, index / TPX_PAGE_WORDS);
  if (!page) return -1;
  at = page->word[index % TPX_PAGE_WORDS];
  if (at & TPX_AT_TABLE) {
    index = TPX_AT(at) + (v4 >> 8 & 255);
    page = page_of(pages, index / TPX_PAGE_WORDS);
    if (!page) return -1;
    at = page->word[index % TPX_PAGE_WORDS];
  }
  if (!(at & TPX_AT_RANGES)) return at & 0xffff;
  index = TPX_AT(at);
  page = page_of(pages, index / TPX_PAGE_WORDS);
  if (!page) return -1;
  base = index % TPX_PAGE_WORDS;
  count = TPX_AT_COUNT(at);
  /* Halves TPX_MAX_RANGES until one is left. */
#pragma unroll
  for (int i = 0; i < 8; i++) {
    __u32 half = count / 2;

    if (count == 1) break;
    if (page->word[(base + half) % TPX_PAGE_WORDS] <= last) base += half;
    count -= half;
  }
  return page->word[base % TPX_PAGE_WORDS] & 0xffff;
}

/* The `next` of the range that the address is in. */
static __always_inline __u32 next_of_node(const struct tpx_page *page, __u64 high, __u64 low) {
  const struct tpx_v6_node *node = (const void *)page;
  /* Unlike a constant, this does not make the verifier look at each way through the loop by itself. */
  __u32 at = node->zero;

#pragma unroll
  for (__u32 half = TPX_V6_FANOUT / 2; half; half /= 2) {
    __u32 middle = (at + half) % TPX_V6_FANOUT;

    if (node->high[middle] < high || (node->high[middle] == high && node->low[middle] <= low)) at += half;
  }
  return node->next[at % TPX_V6_FANOUT];
}

/* The class of an IPv6 address by the tree at `at`; negative where it is damaged. */
static __noinline int search_v6(void *pages, __u32 at, __u32 levels, const struct tpx_addr *addr) {
  __u64 high = (__u64)bpf_ntohl(addr->w[0]) << 32 | bpf_ntohl(addr->w[1]);
  __u64 low = (__u64)bpf_ntohl(addr->w[2]) << 32 | bpf_ntohl(addr->w[3]);

  for (__u32 level = 0; level < TPX_V6_LEVELS && level < levels; level++) {
    const struct tpx_page *page = page_of(pages, at);

    if (!page) return -1;
    at = next_of_node(page, high, low);
  }
  return at & 0xffff;
}

static __noinline __u32 prefix_class(const struct tpx_tables *t, __u32 generation, __u32 dim,
                                     const struct tpx_addr *addr) {
  __u32 index = (generation & 1) * 2 + (dim & 1);
  int class, v4 = addr_is_v4(addr);
  void *pages;
  __u16 step;

  dim &= 1;
  step = v4 ? walk_blocks(t, t->root[dim][1], addr, 12) : walk_blocks(t, t->root[dim][0], addr, 0);
  if (step != TPX_STEP_SEARCH) return step;
  pages = bpf_map_lookup_elem(&tpx_prefixes, &index);
  if (!pages) return t->miss_class[dim];
  class = v4 ? search_v4(pages, bpf_ntohl(addr->w[3]))
             : search_v6(pages, t->v6_root[dim], t->v6_levels[dim], addr);
  return class < 0 ? t->miss_class[dim] : class;
}

/* Lowest set bit; BPF has no such instruction. */
__weak __noinline int tpx_lowest_bit(__u64 x) {
  __u32 n = 0;

  if (!(x & 0xffffffff)) n += 32, x >>= 32;
  if (!(x & 0xffff)) n += 16, x >>= 16;
  if (!(x & 0xff)) n += 8, x >>= 8;
  if (!(x & 0xf)) n += 4, x >>= 4;
  if (!(x & 0x3)) n += 2, x >>= 2;
  return n + !(x & 1);
}

/* First rule in all five sets, TPX_MAX_RULES if there is none. */
static __noinline __u32 first_common_rule(const struct tpx_bits *a, const struct tpx_bits *b,
                                          const struct tpx_bits *c, const struct tpx_bits *d,
                                          const struct tpx_bits *e) {
  __u64 words;

  words = a->summary & b->summary & c->summary & d->summary & e->summary;
#pragma unroll
  for (int i = 0; i < TPX_RULE_WORDS; i++) {
    __u64 rules;

    if (!(words & (1ULL << i))) continue;
    rules = a->word[i] & b->word[i] & c->word[i] & d->word[i] & e->word[i];
    if (rules) return i * 64 + tpx_lowest_bit(rules);
  }
  return TPX_MAX_RULES;
}

static __always_inline void verdict_of_rule(const struct tpx_tables *t, __u32 index, struct tpx_verdict *v) {
  const struct tpx_rule *rule = &t->rules[index & (TPX_MAX_RULES - 1)];

  v->counter = rule->counter;
  v->action = rule->action;
  v->fail_mode = rule->fail_mode;
  v->source = rule->source;
  v->mapping = rule->mapping;
  v->limit = rule->rate ? index + 1 : 0;
  v->to = rule->to;
}

/* Returns 0 and fills v, or -1 when there is no policy to ask. */
__weak __noinline int tpx_evaluate(const struct tpx_flow *flow, struct tpx_verdict *v) {
  __u32 generation = live_generation();
  struct tpx_tables *t = tables_of(generation);
  const struct tpx_bits *src, *dst, *proto, *sport, *dport;
  __u32 rule;

  if (!t || !flow || !v) return -1;
  src = bits_of(t, prefix_class(t, generation, TPX_DIM_SRC, &flow->src));
  dst = bits_of(t, prefix_class(t, generation, TPX_DIM_DST, &flow->dst));
  proto = bits_of(t, t->proto_class[flow->proto]);
  sport = bits_of(t, t->port_class[TPX_DIM_SPORT][bpf_ntohs(flow->sport)]);
  dport = bits_of(t, t->port_class[TPX_DIM_DPORT][bpf_ntohs(flow->dport)]);
  rule = first_common_rule(src, dst, proto, sport, dport);
  if (rule >= TPX_MAX_RULES) return -1;
  verdict_of_rule(t, rule, v);
  return 0;
}

/* As tpx_evaluate, for a packet whose ports are unknown; -1 also where the verdict depends on them. */
__weak __noinline int tpx_eval_portless(const struct tpx_flow *flow, struct tpx_verdict *v) {
  __u32 generation = live_generation();
  struct tpx_tables *t = tables_of(generation);
  const struct tpx_bits *src, *dst, *proto;
  __u32 rule;

  if (!t || !flow || !v) return -1;
  src = bits_of(t, prefix_class(t, generation, TPX_DIM_SRC, &flow->src));
  dst = bits_of(t, prefix_class(t, generation, TPX_DIM_DST, &flow->dst));
  proto = bits_of(t, t->proto_class[flow->proto]);
  rule = first_common_rule(src, dst, proto, proto, proto);
  if (rule >= TPX_MAX_RULES || !(t->portless.word[rule / 64] & 1ULL << rule % 64)) return -1;
  verdict_of_rule(t, rule, v);
  return 0;
}

/*
 * Whether a packet whose ports are unknown, and perhaps its protocol, might be
 * denied by some rule: the first rule that could deny it comes before the first
 * that accepts it whatever they are.
 */
__weak __noinline int tpx_may_be_denied(const struct tpx_flow *flow) {
  __u32 generation = live_generation();
  struct tpx_tables *t = tables_of(generation);
  const struct tpx_bits *src, *dst, *proto;
  __u32 denying, portless;

  if (!t || !flow) return 0;
  src = bits_of(t, prefix_class(t, generation, TPX_DIM_SRC, &flow->src));
  dst = bits_of(t, prefix_class(t, generation, TPX_DIM_DST, &flow->dst));
  proto = bits_of(t, t->proto_class[flow->proto]);
  denying = first_common_rule(src, dst, flow->proto == TPX_PROTO_UNKNOWN ? &t->denying : proto, &t->denying,
                              &t->denying);
  portless = first_common_rule(src, dst, proto, &t->portless, &t->portless);
  return denying < TPX_MAX_RULES && denying <= portless;
}

static __always_inline int concerns_other_protocols(void) {
  struct tpx_tables *t = tables_of(live_generation());

  return t && t->classify_others;
}
