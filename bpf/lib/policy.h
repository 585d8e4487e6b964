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
#include "control.h"
#include "tpx_maps.bpf.h"

/* Cgroups and sockets' hooks see those of every network namespace. */
static __always_inline int is_of_this_netns(__u64 netns_cookie) {
  struct tpx_control *control = control_block();

  return control && control->netns_cookie && control->netns_cookie == netns_cookie;
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

/* The class that the IPv4 addresses of a network have in common, or TPX_STEP_SEARCH; negative where the pages
 * are damaged. */
static __always_inline int class_of_net(const struct tpx_tables *t, __u32 dim, void *pages, __u32 v4) {
  __u32 net = v4 >> (32 - TPX_V4_NET_BITS), index = net / 16;
  const struct tpx_page *page = page_of(pages, index / TPX_PAGE_WORDS);

  if (!page) return -1;
  return t->v4_class[dim & 1][page->word[index % TPX_PAGE_WORDS] >> net % 16 * 2 & (TPX_V4_COMMON - 1)];
}

/* The class of an IPv4 address by its ranges; negative where the pages are damaged. */
static __noinline int search_v4(void *pages, __u32 v4) {
  const struct tpx_page *page;
  __u32 at, index = TPX_V4_NET_WORDS + (v4 >> 16), base, count, last = v4 << 16 | 0xffff;

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

static __noinline __u32 walk_to_class(const struct tpx_tables *t, __u32 generation, __u32 dim,
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
  class = v4 ? class_of_net(t, dim, pages, bpf_ntohl(addr->w[3]))
             : search_v6(pages, t->v6_root[dim], t->v6_levels[dim], addr);
  if (class == TPX_STEP_SEARCH) class = search_v4(pages, bpf_ntohl(addr->w[3]));
  return class < 0 ? t->miss_class[dim] : class;
}

/* Where no rule asks for the addresses of a family, the first step is the last. */
static __always_inline __u32 prefix_class(const struct tpx_tables *t, __u32 generation, __u32 dim,
                                          const struct tpx_addr *addr) {
  __u16 step = addr_is_v4(addr) ? t->root[dim][1] : t->root[dim][0];

  return step & TPX_STEP_BLOCK ? walk_to_class(t, generation, dim, addr) : step;
}

/*
 * Lowest set bit; BPF has no such instruction. The upper six bits of the product
 * are another number for each single bit (a de Bruijn sequence): no branch that
 * the verifier would have to follow.
 */
static const __u8 bit_of_product[64] = {
    0,  1,  48, 2,  57, 49, 28, 3,  61, 58, 50, 42, 38, 29, 17, 4,  62, 55, 59, 36, 53, 51,
    43, 22, 45, 39, 33, 30, 24, 18, 12, 5,  63, 47, 56, 27, 60, 41, 37, 16, 54, 35, 52, 21,
    44, 32, 23, 11, 46, 26, 40, 15, 34, 20, 31, 10, 25, 14, 19, 9,  13, 8,  7,  6,
};

static __always_inline __u32 lowest_bit(__u64 x) {
  return bit_of_product[(x & -x) * 0x03f79d71b4cb0a89ULL >> 58];
}

/* What each thing that is asked for leaves of the rules: classes, and the bits of values that have an entry.
 */
enum {
  BY_SRC,
  BY_DST,
  BY_PROTO,
  BY_SPORT,
  BY_DPORT,
  BY_DSCP, /* of who does not know the link: rules that do not ask for it */
  BY_MARK,
  CLASSES,
};

struct candidates {
  /* These and the last two classes take nothing away where no rule asks for more than the flow
   * (tpx_tables.asks): they are not always looked at. */
  const struct tpx_bits *by_device;
  const struct tpx_bits *by_mac;
  __u16 class[CLASSES];
};

/* Where all rules are in the first word. */
static __always_inline __u64 common_of_few(const struct tpx_tables *t, const struct candidates *c) {
  __u64 rules = bits_of(t, c->class[BY_SRC])->word[0];

#pragma unroll
  for (int d = BY_DST; d < BY_DSCP; d++) rules &= bits_of(t, c->class[d])->word[0];
  if (!t->asks) return rules;
  rules &= c->by_device->word[0] & c->by_mac->word[0];
#pragma unroll
  for (int d = BY_DSCP; d < CLASSES; d++) rules &= bits_of(t, c->class[d])->word[0];
  return rules;
}

/* First rule in all the sets, TPX_MAX_RULES if there is none. */
static __noinline __u32 first_common_rule(const struct tpx_tables *t, const struct candidates *c) {
  const struct tpx_bits *by[CLASSES];
  __u64 words, rules = 0;
  __u32 at = 0;

  if (t->n_rules <= 64) {
    rules = common_of_few(t, c);
    return rules ? lowest_bit(rules) : TPX_MAX_RULES;
  }
  words = c->by_device->summary & c->by_mac->summary;
#pragma unroll
  for (int d = 0; d < CLASSES; d++) {
    by[d] = bits_of(t, c->class[d]);
    words &= by[d]->summary;
  }
#pragma unroll
  for (int i = 0; i < TPX_RULE_WORDS; i++) {
    if (!(words & (1ULL << i))) continue;
    at = i;
    rules = c->by_device->word[i] & c->by_mac->word[i];
#pragma unroll
    for (int d = 0; d < CLASSES; d++) rules &= by[d]->word[i];
    if (rules) break;
  }
  return rules ? at * 64 + lowest_bit(rules) : TPX_MAX_RULES;
}

/* The rules that accept a value of an attribute. */
static __noinline const struct tpx_bits *rules_of_value(const struct tpx_tables *t, __u32 generation,
                                                        __u32 attribute, __u64 value, __u32 device) {
  struct tpx_attribute_key key = {.value = value, .attribute = attribute, .device = device};
  __u32 slot = generation & 1;
  struct tpx_bits *bits;
  void *attributes;

  attributes = bpf_map_lookup_elem(&tpx_attributes, &slot);
  bits = attributes ? bpf_map_lookup_elem(attributes, &key) : 0;
  return bits ? bits : bits_of(t, t->other_class[attribute & (TPX_ATTRIBUTES - 1)]);
}

/* Without branches, of which the verifier would follow every combination. */
static __noinline __u32 mark_class(const struct tpx_tables *t, __u32 mark) {
  __u32 fits = 0;

#pragma unroll
  for (int i = 0; i < TPX_MAX_MARKS; i++) {
    __u64 differs = (mark & t->marks[i].mask) ^ t->marks[i].value;

    fits |= (differs - 1) >> 63 << i;
  }
  barrier_var(fits); /* or the compiler would leave out the mask, which older verifiers want (6.1) */
  return t->mark_class[fits & ((1 << TPX_MAX_MARKS) - 1)];
}

static __always_inline int asks_for(const struct tpx_tables *t, enum tpx_attribute attribute) {
  return t->asks >> attribute & 1;
}

static __always_inline void add_by_link(const struct tpx_tables *t, __u32 generation,
                                        const struct tpx_link *link, struct candidates *c) {
  c->class[BY_DSCP] = c->class[BY_MARK] = c->class[BY_SRC];
  c->by_device = c->by_mac = bits_of(t, c->class[BY_SRC]);
  if (!t->asks) return;
  if (!link) {
    c->class[BY_DSCP] = t->linkless_class;
    return;
  }
  if (asks_for(t, TPX_ATTR_DEVICE))
    c->by_device = rules_of_value(t, generation, TPX_ATTR_DEVICE, link->ifindex, 0);
  if (asks_for(t, TPX_ATTR_MAC)) {
    __u64 mac = 0;

    __builtin_memcpy(&mac, link->mac, sizeof(link->mac));
    c->by_mac = rules_of_value(t, generation, TPX_ATTR_MAC, mac, 0);
  }
  if (asks_for(t, TPX_ATTR_DSCP)) c->class[BY_DSCP] = t->dscp_class[link->dscp & 63];
  if (asks_for(t, TPX_ATTR_MARK)) c->class[BY_MARK] = mark_class(t, link->mark);
}

/* All but the ports, which are as good as any. */
static __always_inline void add_by_tuple(const struct tpx_tables *t, __u32 generation,
                                         const struct tpx_flow *flow, struct candidates *c) {
  c->class[BY_SRC] = prefix_class(t, generation, TPX_DIM_SRC, &flow->src);
  c->class[BY_DST] = prefix_class(t, generation, TPX_DIM_DST, &flow->dst);
  c->class[BY_PROTO] = c->class[BY_SPORT] = c->class[BY_DPORT] = t->proto_class[flow->proto];
}

static __always_inline void add_by_ports(const struct tpx_tables *t, const struct tpx_flow *flow,
                                         struct candidates *c) {
  c->class[BY_SPORT] = t->port_class[TPX_DIM_SPORT][bpf_ntohs(flow->sport)];
  c->class[BY_DPORT] = t->port_class[TPX_DIM_DPORT][bpf_ntohs(flow->dport)];
}

static __always_inline void verdict_of_rule(const struct tpx_tables *t, __u32 index, struct tpx_verdict *v) {
  const struct tpx_rule *rule = &t->rules[index & (TPX_MAX_RULES - 1)];

  v->counter = rule->counter;
  v->action = rule->action;
  v->fail_mode = rule->fail_mode;
  v->source = rule->source;
  v->mapping = rule->mapping;
  v->limit = rule->rate ? index + 1 : 0;
  v->logs = rule->log != TPX_LOG_NONE;
  v->forward = rule->forward;
  v->to = rule->to;
}

static __always_inline __u32 rule_of(const struct tpx_tables *t, __u32 generation,
                                     const struct tpx_flow *flow, const struct tpx_link *link) {
  struct candidates c;

  add_by_tuple(t, generation, flow, &c);
  add_by_ports(t, flow, &c);
  add_by_link(t, generation, link, &c);
  return first_common_rule(t, &c);
}

/* Returns 0 and fills v, or -1 when there is no policy to ask. Who does not know the link passes 0. */
__weak __noinline int tpx_evaluate(const struct tpx_flow *flow, const struct tpx_link *link,
                                   struct tpx_verdict *v) {
  __u32 generation = live_generation();
  struct tpx_tables *t = tables_of(generation);
  __u32 rule;

  if (!t || !flow || !v) return -1;
  rule = rule_of(t, generation, flow, link);
  if (rule >= TPX_MAX_RULES) return -1;
  verdict_of_rule(t, rule, v);
  return 0;
}

/* As tpx_evaluate, for a packet whose ports are unknown; -1 also where the verdict depends on them. */
__weak __noinline int tpx_eval_portless(const struct tpx_flow *flow, const struct tpx_link *link,
                                        struct tpx_verdict *v) {
  __u32 generation = live_generation();
  struct tpx_tables *t = tables_of(generation);
  struct candidates c;
  __u32 rule;

  if (!t || !flow || !v) return -1;
  add_by_tuple(t, generation, flow, &c);
  add_by_link(t, generation, link, &c);
  rule = first_common_rule(t, &c);
  if (rule >= TPX_MAX_RULES || !(bits_of(t, t->portless_class)->word[rule / 64] & 1ULL << rule % 64))
    return -1;
  verdict_of_rule(t, rule, v);
  return 0;
}

/*
 * Of the rules of a class, the first that some packet with these addresses could meet, whose ports are
 * unknown and perhaps the protocol; TPX_MAX_RULES where an earlier rule accepts it whatever they are.
 */
static __always_inline __u32 first_for_some_port(const struct tpx_tables *t, __u32 generation,
                                                 const struct tpx_flow *flow, const struct tpx_link *link,
                                                 __u16 class) {
  struct candidates c;
  __u32 portless, rule;

  add_by_tuple(t, generation, flow, &c);
  add_by_link(t, generation, link, &c);
  c.class[BY_SPORT] = c.class[BY_DPORT] = t->portless_class;
  portless = first_common_rule(t, &c);
  c.class[BY_SPORT] = c.class[BY_DPORT] = class;
  if (flow->proto == TPX_PROTO_UNKNOWN) c.class[BY_PROTO] = class;
  rule = first_common_rule(t, &c);
  return rule <= portless ? rule : TPX_MAX_RULES;
}

/* Whether some rule might deny it. */
__weak __noinline int tpx_may_be_denied(const struct tpx_flow *flow, const struct tpx_link *link) {
  __u32 generation = live_generation();
  struct tpx_tables *t = tables_of(generation);

  return t && flow && first_for_some_port(t, generation, flow, link, t->denying_class) < TPX_MAX_RULES;
}

/* As tpx_evaluate, by the rule that might proxy it; -1 where there is none. */
__weak __noinline int tpx_eval_steering(const struct tpx_flow *flow, const struct tpx_link *link,
                                        struct tpx_verdict *v) {
  __u32 generation = live_generation();
  struct tpx_tables *t = tables_of(generation);
  __u32 rule;

  if (!t || !flow || !v) return -1;
  rule = first_for_some_port(t, generation, flow, link, t->steering_class);
  if (rule >= TPX_MAX_RULES) return -1;
  verdict_of_rule(t, rule, v);
  return 0;
}

static __always_inline int concerns_other_protocols(void) {
  struct tpx_tables *t = tables_of(live_generation());

  return t && t->classify_others;
}

static __always_inline int some_rule_forwards(void) {
  struct tpx_tables *t = tables_of(live_generation());

  return t && t->forwards;
}

/* Of the live generation: bit per enum tpx_attribute. */
static __always_inline __u32 asked_attributes(void) {
  struct tpx_tables *t = tables_of(live_generation());

  return t ? t->asks : 0;
}
