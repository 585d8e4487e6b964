// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * XDP on LAN devices: drops early what tpx_lan would drop for the same packet by
 * the rules alone, for the same reason, and counts it in its place. All else goes
 * up to tc, which judges it as if nobody had looked: whatever needs memory of
 * flows that are known, an answer, or a mark.
 *
 * A packet here has no mark yet. One that a veth carries within a namespace may
 * get its own back, which tells tc that the proxy sent it: rules see it first.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "lib/config.h"
#include "lib/count.h"
#include "lib/ctx_xdp.h"
#include "lib/flows.h"
#include "lib/limit.h"
#include "lib/parse.h"
#include "lib/policy.h"
#include "lib/report.h"
#include "lib/sockets.h"
#include "lib/verdict.h"

#define UP (-1) /* to tc */

static __always_inline int is_remembered(const struct tpx_flow *flow, __u32 now) {
  const struct tpx_verdict *v = bpf_map_lookup_elem(&tpx_flows, flow);

  return v && age_s(v, now) <= udp_flow_s();
}

static __always_inline int is_new_datagram(const struct tpx_flow *flow) {
  struct tpx_flow reversed;
  __u32 now;

  if (!may_be_noted(flow)) return 1;
  now = now_s();
  if (is_remembered(flow, now)) return 0;
  reversed = reverse_of(flow);
  return !is_remembered(&reversed, now);
}

/* Whether tc would ask the rules, nothing else, what this packet may do. A SYN that has other flags may be
 * dropped for those. */
static __always_inline int may_be_first(const struct packet *p) {
  if (p->first_fragment) return 0;
  if (p->kind == PACKET_TCP) return p->tcp.syn && !p->tcp.ack && !p->tcp.fin && !p->tcp.rst;
  if (p->kind == PACKET_UDP) return is_new_datagram(&p->flow);
  return p->kind == PACKET_OTHER && concerns_other_protocols();
}

/* The penalty is the only limit that holds here: what takes out of a bucket is tc's, once. */
static __noinline int judge_by_penalty(ctx_t *ctx, struct packet *p, const struct tpx_tables *t, __u32 rule) {
  struct tpx_verdict v = {};
  enum tpx_effect effect;

  verdict_of_rule(t, rule, &v);
  if (!v.limit || p->kind == PACKET_OTHER || !tpx_in_penalty(&p->flow, &v)) return UP;
  effect = effect_of(reason_of_verdict(&p->flow, &v));
  if (effect != TPX_EFFECT_STEER && effect != TPX_EFFECT_PASS) return UP;
  /* Of UDP a socket has a word in what the rules leave alone. */
  if (p->kind == PACKET_UDP && is_transparent(&v) && udp_owner(ctx, &p->flow, tpx_own_mark) != OWNED_BY_NONE)
    return UP;
  v.reason = TPX_R_RATE_PENALTY;
  note_rule(p, &v);
  return TPX_R_RATE_PENALTY;
}

static __always_inline int judge_by_rules(ctx_t *ctx, struct packet *p) {
  __u32 generation = live_generation();
  struct tpx_tables *t = tables_of(generation);
  const struct tpx_rule *rule;
  int index, reason = TPX_R_RULE_DROP;

  if (!t || t->asks & 1 << TPX_ATTR_MARK) return UP;
  note_attributes(ctx, p, t->asks);
  index = tpx_rule_of(&p->flow, &p->link);
  if (index < 0 || generation != live_generation()) return UP; /* whose rules may ask for something else */
  rule = &t->rules[index & (TPX_MAX_RULES - 1)];
  if (rule->action == TPX_ACTION_DROP) {
    note_drop(p, rule);
  } else {
    reason = judge_by_penalty(ctx, p, t, index);
  }
  if (reason == UP || (p->kind != PACKET_OTHER && is_martian(&p->flow))) return UP;
  /* The rules are asked about new flows only. */
  if (p->kind == PACKET_TCP && tcp_owner(ctx, &p->flow) != OWNED_BY_NONE) return UP;
  return reason;
}

SEC("xdp.frags")
int tpx_xdp_early(struct xdp_md *ctx) {
  struct packet p;
  __u32 len;
  int reason;

  __builtin_memset(&p, 0, sizeof(p));
  if (parse_packet(ctx, &p) != PARSED || !may_be_first(&p)) return XDP_PASS;
  if (addr_never_proxied(&p.flow.dst) || is_local(&p.flow.dst)) return XDP_PASS;
  reason = judge_by_rules(ctx, &p);
  if (reason == UP) return XDP_PASS;
  len = ctx_len(ctx);
  count_by_xdp(&tpx_rule_hits, p.counter, len);
  count_by_xdp(&tpx_counters, reason, len);
  if (p.is_logged || is_traced()) report_packet(ctx, &p, reason, TPX_HOOK_XDP);
  return XDP_DROP;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
