// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * XDP on LAN devices: drops early what tpx_lan would drop for the same packet by
 * the rules alone, for the same reason, and counts it in its place. Where XDP has
 * found that tpx_lan would pass the packet and write nothing down, it goes up with a
 * note that says so (note.h). All else goes up to be judged as if nobody had looked:
 * whatever asks for an answer, a mark, or a change of what is remembered.
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
#include "lib/note.h"
#include "lib/parse.h"
#include "lib/policy.h"
#include "lib/report.h"
#include "lib/sockets.h"
#include "lib/verdict.h"

#define UP (-1)    /* to tc */
#define FIRST (-2) /* of its flow: the rules know */

/* Programs between here and tc may change these, and no note tells. */
#define ASKS_FOR_MORE (1 << TPX_ATTR_MAC | 1 << TPX_ATTR_DSCP)

static __always_inline const struct tpx_verdict *remembered(const struct tpx_flow *flow, __u32 now) {
  const struct tpx_verdict *v = bpf_map_lookup_elem(&tpx_flows, flow);

  return v && age_s(v, now) <= udp_flow_s() ? v : 0;
}

/* Whether tc would pass the datagram and have nothing to write down: the first one of each second is its. */
static __always_inline int is_settled(const struct tpx_verdict *v, const struct packet *p, __u32 now) {
  return !is_steered(v) && !is_forwarded(v) && v->seen_s == now && v->fragmentable == p->may_fragment;
}

static __always_inline int judge_datagram(const struct packet *p) {
  const struct tpx_verdict *v;
  struct tpx_flow reversed;
  __u32 now;

  if (!may_be_noted(&p->flow)) return FIRST;
  now = now_s();
  v = remembered(&p->flow, now);
  if (v) return is_settled(v, p, now) ? TPX_R_DIRECT : UP;
  reversed = reverse_of(&p->flow);
  return remembered(&reversed, now) ? UP : FIRST;
}

/* A SYN that has other flags may be dropped for those. */
static __always_inline int is_plain_syn(const struct packet *p) {
  return p->tcp.syn && !p->tcp.ack && !p->tcp.fin && !p->tcp.rst;
}

/* What tc would find without the rules. */
static __always_inline int judge_known(const struct packet *p) {
  if (p->first_fragment) return UP;
  if (p->kind != PACKET_UDP && p->kind != PACKET_OTHER && !(p->kind == PACKET_TCP && is_plain_syn(p)))
    return UP;
  if (addr_never_proxied(&p->flow.dst)) return TPX_R_SPECIAL_ADDRESS;
  if (is_local(&p->flow.dst)) return TPX_R_OWN_ADDRESS;
  if (p->kind == PACKET_UDP) return judge_datagram(p);
  return p->kind == PACKET_TCP || concerns_other_protocols() ? FIRST : TPX_R_OTHER_PROTOCOL;
}

/* Other protocols have no flows that are remembered, and no limits: tc asks the rules for each packet. */
static __always_inline int judge_other(struct packet *p, const struct tpx_tables *t,
                                       const struct tpx_rule *rule) {
  if (rule->action == TPX_ACTION_REJECT || rule->log != TPX_LOG_NONE || t->asks & ASKS_FOR_MORE) return UP;
  p->is_ruled = 1;
  p->counter = rule->counter;
  return TPX_R_RULE_BYPASS;
}

/* The penalty is the only limit that holds here: what takes out of a bucket is tc's, once. */
static __noinline int judge_by_penalty(ctx_t *ctx, struct packet *p, const struct tpx_tables *t, __u32 rule) {
  struct tpx_verdict v = {};
  enum tpx_effect effect;

  verdict_of_rule(t, rule, &v);
  if (!v.limit || !tpx_in_penalty(&p->flow, &v)) return UP;
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
  int reason = TPX_R_RULE_DROP;
  __u32 index;

  if (!t || t->asks & 1 << TPX_ATTR_MARK) return UP;
  note_attributes(ctx, p, t->asks);
  index = rule_of(t, generation, &p->flow, &p->link);
  if (index >= TPX_MAX_RULES) return UP;
  rule = &t->rules[index & (TPX_MAX_RULES - 1)];
  if (rule->action == TPX_ACTION_DROP) {
    note_drop(p, rule);
  } else if (p->kind == PACKET_OTHER) {
    return judge_other(p, t, rule);
  } else {
    reason = judge_by_penalty(ctx, p, t, index);
  }
  if (reason == UP || (p->kind != PACKET_OTHER && is_martian(&p->flow))) return UP;
  /* The rules are asked about new flows only. */
  if (p->kind == PACKET_TCP && tcp_owner(ctx, &p->flow) != OWNED_BY_NONE) return UP;
  return reason;
}

/* UP, the reason to drop, or to pass. */
static __always_inline int judge(ctx_t *ctx, struct packet *p) {
  int reason;

  if (parse_packet(ctx, p) != PARSED) return UP;
  reason = judge_known(p);
  return reason == FIRST ? judge_by_rules(ctx, p) : reason;
}

static __always_inline int drop(ctx_t *ctx, struct packet *p, int reason) {
  __u32 len = ctx_len(ctx);

  count_by_xdp(&tpx_rule_hits, p->counter, len);
  count_by_xdp(&tpx_counters, reason, len);
  if (p->is_logged || is_traced()) report_packet(ctx, p, reason, TPX_HOOK_XDP);
  return XDP_DROP;
}

/* Of TCP, GRO makes trains: tc judges one where XDP would note each car. What is translated by tc is its to
 * find. */
static __always_inline int may_be_told(const struct packet *p) {
  struct tpx_control *control = control_block();

  if (p->kind == PACKET_UDP && (!control || control->translates)) return 0;
  return p->kind != PACKET_TCP && has_plain_header(p);
}

/* Not in front of somebody else's metadata, and not where the driver has no room for any. */
static __always_inline void leave_note(struct xdp_md *xdp, const struct packet *p, int reason) {
  struct note note = {.reason = reason, .counter = p->is_ruled ? p->counter : TPX_NO_RULE}, *at;
  __be32 ports = *(const __be32 *)&p->flow.sport;

  if (xdp->data_meta != xdp->data || !may_be_told(p)) return;
  note.word = p->is_v6 ? word_of_v6(&note, &p->ip.v6, ports, ctx_ifindex(xdp))
                       : word_of_v4(&note, &p->ip.v4, ports, ctx_ifindex(xdp));
  if (bpf_xdp_adjust_meta(xdp, -(int)sizeof(note))) return;
  at = (void *)(long)xdp->data_meta;
  if ((void *)(at + 1) <= (void *)(long)xdp->data) *at = note;
}

static __always_inline int early(struct xdp_md *ctx, int leaves_notes) {
  struct packet p;
  int reason;

  __builtin_memset(&p, 0, sizeof(p));
  reason = judge(ctx, &p);
  if (reason == UP) return XDP_PASS;
  if (effect_of(reason) == TPX_EFFECT_DROP) return drop(ctx, &p, reason);
  if (leaves_notes) leave_note(ctx, &p, reason);
  return XDP_PASS;
}

SEC("xdp.frags")
int tpx_xdp_early(struct xdp_md *ctx) { return early(ctx, 1); }

/*
 * The same as one of several in libxdp's dispatcher, without notes: since Linux 6.13 what may move the
 * packet's ends cannot take the place of what does not, as the dispatchers before xdp-tools 1.5.5 do not.
 */
SEC("xdp.frags")
int tpx_xdp_part(struct xdp_md *ctx) { return early(ctx, 0); }

char LICENSE[] SEC("license") = "Dual BSD/GPL";
