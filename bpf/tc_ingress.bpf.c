// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * tc ingress: decide for each packet from a LAN or WAN device whether the stack
 * forwards it, delivers it locally (steered: only the mark is set, no byte
 * changes), refuses it with a RST or an ICMP error, or drops it. Passing returns TC_ACT_UNSPEC, so other
 * programs and filters on the device still run; what a rule has forwarded by the FIB leaves at once.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <linux/pkt_cls.h>

#include "lib/config.h"
#include "lib/count.h"
#include "lib/ctx_skb.h"
#include "lib/events.h"
#include "lib/flows.h"
#include "lib/forward.h"
#include "lib/limit.h"
#include "lib/parse.h"
#include "lib/policy.h"
#include "lib/report.h"
#include "lib/reset.h"
#include "lib/sockets.h"
#include "lib/told.h"
#include "lib/translate.h"
#include "lib/unreachable.h"
#include "lib/upstream.h"
#include "lib/verdict.h"
#include "lib/workers.h"

/* The stack forgets an incomplete datagram after 30 s (IPv4) or 60 s (IPv6). */
#define FRAGMENT_LIFE_NS (60ULL * 1000 * 1000 * 1000)

/* TCP_TIMEWAIT_LEN of the kernel. A later TIME_WAIT is that of a newer connection. */
#define TIME_WAIT_S 60

static __always_inline void hand_off(const struct tpx_flow *flow, const struct tpx_verdict *v) {
  __u32 index = flow_hash(flow) % TPX_HANDOFF_SLOTS;
  struct tpx_handoff *slot = bpf_map_lookup_elem(&tpx_handoff, &index);

  if (!slot) return;
  slot->flow = *flow;
  slot->verdict = *v;
}

/* Asks the policy about the first packet of a flow. */
static __noinline int judge_new_flow(struct __sk_buff *skb, struct packet *p, struct tpx_verdict *v) {
  if (!p || !v) return TPX_R_MALFORMED;
  note_link(skb, p);
  if (tpx_evaluate(&p->flow, &p->link, v)) return TPX_R_NO_POLICY;
  count_at(&tpx_rule_hits, v->counter, skb->len);
  v->reason = reason_of_verdict(&p->flow, v);
  note_rule(p, v);
  return v->reason;
}

/*
 * The reason why a flow that nothing else stands in the way of must not begin, or 0. Only TCP and UDP have
 * flows that begin. What sk_lookup asks the policy by itself has come through here before: the SYN whose
 * cookie came back was within the limit.
 */
static __always_inline int exceeded_limit(const struct tpx_flow *flow, const struct tpx_verdict *v) {
  enum tpx_effect effect = effect_of(v->reason);

  if (!v->limit || (effect != TPX_EFFECT_STEER && effect != TPX_EFFECT_PASS)) return 0;
  return tpx_exceeds_limit(flow, v);
}

/* The tuple of a socket in TIME_WAIT starts anew, direct: its dead predecessor
 * must not catch what follows. */
static __noinline int note_direct(const struct tpx_flow *flow, int reason) {
  struct tpx_verdict direct = {};

  if (!flow) return 0;
  direct.reason = reason;
  return remember(flow, &direct);
}

static __always_inline int is_noted_direct(const struct tpx_flow *flow) {
  struct tpx_verdict *noted = bpf_map_lookup_elem(&tpx_flows, flow);

  return noted && !is_steered(noted) && age_s(noted, now_s()) <= TIME_WAIT_S;
}

/*
 * Early demultiplexing would find the dead socket and attach it to the packet,
 * and ip_forward() drops packets that have a socket. It leaves packets alone
 * that have a destination already, even one that only carries tunnel metadata,
 * which routing then replaces.
 */
static __always_inline void keep_from_early_demux(struct __sk_buff *skb) {
  struct bpf_tunnel_key none = {};

  bpf_skb_set_tunnel_key(skb, &none, sizeof(none), 0);
}

/* A packet whose tuple a socket has. */
static __always_inline int judge_owned(struct __sk_buff *skb, struct packet *p) {
  return p->tcp.syn && is_own_syn(skb, p) ? TPX_R_OWN_SYN_RETURNED : TPX_R_ESTABLISHED;
}

static __always_inline int judge_syn(struct __sk_buff *skb, struct packet *p) {
  struct tpx_verdict v = {};
  int owner, reason, exceeded;

  if (is_martian(&p->flow)) return TPX_R_MARTIAN;
  owner = tcp_owner(skb, &p->flow);
  if (owner == OWNED_BY_SOCKET) return judge_owned(skb, p);
  reason = judge_new_flow(skb, p, &v);
  /* Some stacks take these for a SYN; the classes that matter must not leak them. */
  if ((p->tcp.fin || p->tcp.rst) && effect_of(reason) != TPX_EFFECT_PASS) return TPX_R_BAD_FLAGS;
  exceeded = exceeded_limit(&p->flow, &v);
  if (exceeded) return exceeded;
  if (effect_of(reason) == TPX_EFFECT_STEER) hand_off(&p->flow, &v);
  if (p->tcp.fin || p->tcp.rst) return reason;
  if (owner == OWNED_BY_TIME_WAIT && effect_of(reason) == TPX_EFFECT_PASS) {
    note_direct(&p->flow, reason);
    keep_from_early_demux(skb);
  } else if (owner == OWNED_BY_TIME_WAIT) {
    bpf_map_delete_elem(&tpx_flows, &p->flow);
  }
  return reason;
}

/* Nothing is left of what was decided for the SYN, and sk_lookup does not know the link. */
__weak __noinline int tpx_hand_off_cookie(struct __sk_buff *skb, struct packet *p) {
  struct tpx_verdict v = {};

  if (!p || !asked_attributes()) return 0;
  note_link(skb, p);
  if (!tpx_evaluate(&p->flow, &p->link, &v)) v.reason = reason_of_verdict(&p->flow, &v);
  if (effect_of(v.reason) == TPX_EFFECT_STEER) hand_off(&p->flow, &v);
  return 0;
}

/* A connection past the proxy is the stack's, or the FIB's where its rule says so. The rules are asked each
 * time, and who sends it, since nothing is remembered of it. */
static __noinline int judge_direct(struct __sk_buff *skb, struct packet *p) {
  struct tpx_verdict v = {};

  if (!p || !some_rule_forwards() || is_martian(&p->flow)) return TPX_R_DIRECT;
  note_link(skb, p);
  return tpx_evaluate(&p->flow, &p->link, &v) || !is_forwarded(&v) ? TPX_R_DIRECT : TPX_R_FORWARDED;
}

static __always_inline int judge_tcp(struct __sk_buff *skb, struct packet *p, int from_lan) {
  int owner;

  if (from_lan && p->tcp.syn && !p->tcp.ack) return judge_syn(skb, p);
  owner = tcp_owner(skb, &p->flow);
  if (owner == OWNED_BY_TIME_WAIT && !from_lan && p->tcp.syn) {
    /* The proxy had this tuple too; a connection of its own would have a socket. */
    note_direct(&p->flow, TPX_R_WAN);
    keep_from_early_demux(skb);
    return TPX_R_WAN;
  }
  if (owner == OWNED_BY_TIME_WAIT && is_noted_direct(&p->flow)) {
    keep_from_early_demux(skb);
    return from_lan ? TPX_R_DIRECT : TPX_R_WAN;
  }
  if (owner != OWNED_BY_NONE) return judge_owned(skb, p);
  if (!from_lan) return TPX_R_WAN;
  if (!tpx_is_valid_cookie(p)) return judge_direct(skb, p);
  tpx_hand_off_cookie(skb, p);
  return TPX_R_COOKIE;
}

#define NOT_AN_ANSWER (-1)

/*
 * Between two LANs the answers to a flow come in where flows begin, and must not
 * be judged as one: they go the way of the flow that they answer. Only where both
 * came in by different devices, or a client could answer itself in a server's
 * name and have its own flow taken for the answer.
 */
static __noinline int judge_answer(struct __sk_buff *skb, struct packet *p, struct tpx_verdict *v) {
  struct tpx_verdict *asked;
  struct tpx_flow reversed;

  if (!p || !v) return NOT_AN_ANSWER;
  reversed = reverse_of(&p->flow);
  asked = bpf_map_lookup_elem(&tpx_flows, &reversed);
  if (!asked || age_s(asked, now_s()) > udp_flow_s() || asked->device == skb->ifindex) return NOT_AN_ANSWER;
  if (!is_steered(asked)) return v->reason = TPX_R_DIRECT;
  if (asked->action != TPX_ACTION_PROXY || asked->source != TPX_SOURCE_PRESERVE) return NOT_AN_ANSWER;
  /* Without the socket both ends still have the addresses that they know. */
  if (udp_owner(skb, &p->flow, tpx_own_mark) != OWNED_BY_SOCKET) return TPX_R_DIRECT;
  return v->reason = TPX_R_ESTABLISHED;
}

/*
 * The first datagram of a UDP flow decides for all that follow, until the flow
 * was silent for a while. Denials are not remembered: a flood of what is denied
 * shall not push out what is not. What is addressed to a port that the proxy has
 * borrowed goes there, whoever sends it, unless the rules say otherwise.
 */
static __noinline int judge_new_datagram(struct __sk_buff *skb, struct packet *p) {
  struct tpx_verdict v = {};
  int reason, exceeded;

  if (!p) return TPX_R_MALFORMED;
  if (is_martian(&p->flow)) return TPX_R_MARTIAN;
  reason = judge_answer(skb, p, &v);
  if (reason == NOT_AN_ANSWER) {
    reason = judge_new_flow(skb, p, &v);
    if (reason == TPX_R_NO_POLICY) return reason;
    if (effect_of(reason) != TPX_EFFECT_STEER && effect_of(reason) != TPX_EFFECT_PASS) return reason;
    if (is_transparent(&v) && udp_owner(skb, &p->flow, tpx_own_mark) == OWNED_BY_SOCKET) {
      v.action = TPX_ACTION_BYPASS;
      v.reason = reason = TPX_R_ESTABLISHED;
      p->is_ruled = p->is_logged = 0;
    } else {
      exceeded = exceeded_limit(&p->flow, &v);
      if (exceeded) return exceeded;
    }
  }
  if (!v.reason) return reason;
  if (is_steered(&v) && is_proxied(v.action)) follow_endpoint(&p->flow, &v);
  v.device = skb->ifindex;
  v.fragmentable = p->may_fragment;
  remember(&p->flow, &v);
  return reason;
}

/* A worker that is full or draining keeps the flows it has. */
static __always_inline int judge_known_datagram(const struct tpx_flow *flow, struct tpx_verdict *v) {
  int availability, reason;

  if (!is_steered(v)) return is_forwarded(v) ? TPX_R_FORWARDED : TPX_R_DIRECT;
  follow_endpoint(flow, v);
  availability = tpx_availability(v->worker, tpx_listener_kind(flow, v), tick_ns());
  if (availability != WORKERS_DOWN) return TPX_R_ESTABLISHED;
  availability = tpx_pick_worker(flow, v);
  if (availability == WORKER_FOUND) return TPX_R_ESTABLISHED;
  reason = unavailable(v, availability);
  if (effect_of(reason) == TPX_EFFECT_PASS) v->reason = reason; /* direct from now on */
  return reason;
}

/* What goes to an upstream socket goes there as long as there is one. Written
 * only where it changes: CPUs share the entry. */
static __always_inline int judge_datagram(struct __sk_buff *skb, struct packet *p) {
  struct tpx_verdict *v;
  __u32 now = now_s();

  v = bpf_map_lookup_elem(&tpx_flows, &p->flow);
  if (!v || age_s(v, now) > udp_flow_s()) return judge_new_datagram(skb, p);
  if (is_for_upstream(v) && udp_owner(skb, &p->flow, tpx_own_mark) != OWNED_BY_SOCKET)
    return judge_new_datagram(skb, p);
  note_seen(&p->flow, v, now);
  if (v->fragmentable != p->may_fragment) v->fragmentable = p->may_fragment;
  if (v->relayed) v->relayed = 0; /* whoever it was that the error was about */
  return is_for_upstream(v) ? TPX_R_ESTABLISHED : judge_known_datagram(&p->flow, v);
}

/* A refusal is answered with an ICMP error, which has limits that a RST does not have. */
static __always_inline int refuse(struct __sk_buff *skb, const struct packet *p, int reason) {
  if (effect_of(reason) != TPX_EFFECT_ANSWER) return reason;
  if (is_martian(&p->flow)) return TPX_R_MARTIAN;
  return may_be_answered(skb, p) && take_refusal() ? reason : TPX_R_REFUSED_QUIETLY;
}

static __always_inline int judge_udp(struct __sk_buff *skb, struct packet *p, int from_lan) {
  if (from_lan) return refuse(skb, p, judge_datagram(skb, p));
  return udp_owner(skb, &p->flow, tpx_own_mark) == OWNED_BY_SOCKET ? TPX_R_ESTABLISHED : TPX_R_WAN;
}

static __always_inline struct tpx_frag_key datagram_key(const struct packet *p) {
  return (struct tpx_frag_key){
      .src = p->flow.src,
      .dst = p->flow.dst,
      .id = p->frag_id,
      .proto = p->is_v6 ? 0 : p->flow.proto, /* IPv6 numbers per pair of addresses (RFC 8200, 4.5) */
  };
}

static __always_inline struct tpx_frag_key pair_key(const struct packet *p) {
  return (struct tpx_frag_key){.src = p->flow.src, .dst = p->flow.dst, .proto = p->frag_proto, .of_pair = 1};
}

#define FATE_UNKNOWN (-1)

/* enum tpx_effect or FATE_UNKNOWN */
static __always_inline int fate_at(const struct tpx_frag_key *key) {
  struct tpx_frag *frag = bpf_map_lookup_elem(&tpx_frags, key);

  return frag && tick_ns() - frag->seen_ns < FRAGMENT_LIFE_NS ? frag->effect : FATE_UNKNOWN;
}

/* Its own datagram's, else that of the last first fragments between these addresses: mostly it is the same
 * flow's. *ahead: the fragment came before its first one. */
__weak __noinline int tpx_remembered_fate(struct packet *p, int *ahead) {
  struct tpx_frag_key key;
  int fate;

  /* One that rewrites the header makes the judgement on the first one worthless. */
  if (!p || !ahead || p->rewrites_tcp) return FATE_UNKNOWN;
  key = datagram_key(p);
  fate = fate_at(&key);
  if (fate != FATE_UNKNOWN) return fate;
  *ahead = 1;
  key = pair_key(p);
  return fate_at(&key);
}

/* Where a datagram would go whatever its ports. Of TCP only the socket table knows. */
static __noinline int portless_fate(const struct packet *p) {
  struct tpx_verdict v = {};

  if (!p || p->flow.proto != IPPROTO_UDP) return FATE_UNKNOWN;
  if (tpx_eval_portless(&p->flow, &p->link, &v) || !is_proxied(v.action)) return FATE_UNKNOWN;
  return effect_of(reason_of_verdict(&p->flow, &v));
}

/* Whether it may be of a packet that goes to the proxy: what passed instead would not be put together again
 * anywhere. */
static __noinline int may_be_steered(const struct packet *p) {
  struct tpx_verdict v = {};

  return p && !tpx_eval_steering(&p->flow, &p->link, &v) && tpx_pick_worker(&p->flow, &v) == WORKER_FOUND;
}

/* Later fragments share the first one's fate; without it, that of the last ones between these addresses;
 * without those, what the rules might say decides. */
static __noinline int judge_later_fragment(struct packet *p, int from_lan) {
  int fate, ahead = 0;

  if (!p) return TPX_R_MALFORMED;
  fate = tpx_remembered_fate(p, &ahead);
  if (fate == FATE_UNKNOWN && from_lan) fate = portless_fate(p);
  if (fate == TPX_EFFECT_STEER) return ahead ? TPX_R_FRAG_AHEAD : TPX_R_FRAG_STEERED;
  if (fate == TPX_EFFECT_PASS) return TPX_R_FRAG_PASSED;
  if (fate != FATE_UNKNOWN) return TPX_R_FRAG_DROPPED;
  if (!from_lan) return TPX_R_FRAG_PASSED;
  if (tpx_may_be_denied(&p->flow, &p->link)) return TPX_R_FRAG_DROPPED;
  return may_be_steered(p) ? TPX_R_FRAG_AHEAD : TPX_R_FRAG_PASSED;
}

__weak __noinline int tpx_remember_fragment(struct packet *p, int reason) {
  struct tpx_frag_key key;
  struct tpx_frag frag = {};

  if (!p) return 0;
  frag.seen_ns = tick_ns();
  frag.effect = effect_of(reason);
  key = datagram_key(p);
  bpf_map_update_elem(&tpx_frags, &key, &frag, BPF_ANY);
  key = pair_key(p);
  /* One that passes does not vouch for the others: of those between these addresses some do not. */
  if (frag.effect == TPX_EFFECT_PASS && fate_at(&key) > TPX_EFFECT_PASS) return 0;
  return bpf_map_update_elem(&tpx_frags, &key, &frag, BPF_ANY);
}

static __always_inline int judge_opaque(struct packet *p, int from_lan) {
  int denied = from_lan && tpx_may_be_denied(&p->flow, &p->link);

  if (p->first_fragment) return denied ? TPX_R_FRAG_DROPPED : TPX_R_FRAG_PASSED;
  return denied ? TPX_R_HEADERS_DROPPED : TPX_R_HEADERS_PASSED;
}

static __always_inline int judge_portless(struct __sk_buff *skb, struct packet *p, int from_lan) {
  if (from_lan) note_link(skb, p);
  return p->kind == PACKET_LATER_FRAGMENT ? judge_later_fragment(p, from_lan) : judge_opaque(p, from_lan);
}

static __always_inline int judge_other(struct __sk_buff *skb, struct packet *p, int from_lan) {
  struct tpx_verdict v = {};

  if (!from_lan || !concerns_other_protocols()) return TPX_R_OTHER_PROTOCOL;
  return refuse(skb, p, judge_new_flow(skb, p, &v));
}

/*
 * Many clients' flows share the socket that speaks for a server. The error is
 * its unless the client's flow is direct; and where the kernel looks for it our
 * sk_lookup program has to let it, once. A raw socket may speak for the server,
 * which no lookup finds: then it is enough that the flow is the proxy's.
 */
static __noinline int is_error_of_datagram(struct __sk_buff *skb, struct packet *p, int from_lan) {
  struct tpx_verdict word = {.action = TPX_ACTION_BYPASS, .reason = TPX_R_ICMP_ERROR};
  struct tpx_verdict *v;
  int owned;

  if (!p) return 0;
  owned = udp_owner(skb, &p->quoted, tpx_own_mark) == OWNED_BY_SOCKET;
  if (!from_lan) return owned;
  owned = owned || udp_owner(skb, &p->quoted, tpx_steer_mark) == OWNED_BY_SOCKET;
  v = bpf_map_lookup_elem(&tpx_flows, &p->quoted);
  if (v && !is_steered(v)) return 0;
  if (!owned && (!v || is_for_upstream(v))) return 0;
  if (owned) hand_off(&p->quoted, &word);
  return 1;
}

static __always_inline int is_error_of_ours(struct __sk_buff *skb, struct packet *p, int from_lan) {
  if (p->quoted.proto == IPPROTO_UDP) return is_error_of_datagram(skb, p, from_lan);
  return tcp_owner(skb, &p->quoted) == OWNED_BY_SOCKET;
}

static __always_inline int judge(struct __sk_buff *skb, struct packet *p, int from_lan) {
  int reason;

  if (p->kind == PACKET_ICMP_ERROR) give_back(&p->quoted);
  if (p->kind == PACKET_ICMP_ERROR && is_error_of_ours(skb, p, from_lan)) return TPX_R_ICMP_ERROR;
  if (addr_never_proxied(&p->flow.dst)) return TPX_R_SPECIAL_ADDRESS;
  if (is_local(&p->flow.dst)) return TPX_R_OWN_ADDRESS;
  if (p->kind == PACKET_TCP)
    reason = judge_tcp(skb, p, from_lan);
  else if (p->kind == PACKET_UDP)
    reason = judge_udp(skb, p, from_lan);
  else if (p->kind == PACKET_LATER_FRAGMENT || p->kind == PACKET_OPAQUE)
    return judge_portless(skb, p, from_lan);
  else
    reason = judge_other(skb, p, from_lan);
  if (p->first_fragment) tpx_remember_fragment(p, reason);
  return reason;
}

/* Global, so that the verifier does not follow each way that leads here. */
__weak __noinline int tpx_report_skb(struct __sk_buff *skb, struct packet *p, __u32 reason) {
  return p ? report_packet(skb, p, reason, TPX_HOOK_TC) : 0;
}

static __always_inline int ingress(struct __sk_buff *skb, int from_lan) {
  int reason, action = TC_ACT_UNSPEC;
  struct packet p;

  __builtin_memset(&p, 0, sizeof(p));
  if ((skb->mark & tpx_mark_mask) == tpx_own_mark)
    reason = TPX_R_OWN_MARK;
  else
    reason = parse_packet(skb, &p);
  if (reason == PARSED && may_be_translated(&p)) action = forward_translated(skb, &p, from_lan);
  if (reason == PARSED && action == TC_ACT_UNSPEC && !from_lan && p.kind == PACKET_UDP)
    action = forward_answer(skb, &p);
  if (action != TC_ACT_UNSPEC)
    reason = TPX_R_TRANSLATED;
  else if (reason == PARSED)
    reason = judge(skb, &p, from_lan);
  if (reason == TPX_R_FORWARDED && (action = forward_by_fib(skb, &p)) == TC_ACT_UNSPEC) reason = TPX_R_DIRECT;

  count_at(&tpx_counters, reason, skb->len);
  if (p.is_logged || is_traced()) tpx_report_skb(skb, &p, reason);
  switch (effect_of(reason)) {
    case TPX_EFFECT_DROP:
      return TC_ACT_SHOT;
    case TPX_EFFECT_ANSWER:
      return p.kind == PACKET_TCP ? answer_with_reset(skb, &p) : answer_unreachable(skb, &p);
    case TPX_EFFECT_STEER:
      skb->mark = (skb->mark & ~tpx_mark_mask) | tpx_steer_mark;
      return TC_ACT_UNSPEC;
    default:
      /* Somebody set our bits (a veth keeps the mark): the packet would be delivered here all the same. */
      if ((skb->mark & tpx_mark_mask) == tpx_steer_mark) skb->mark &= ~tpx_mark_mask;
      return action;
  }
}

SEC("tc")
int tpx_lan(struct __sk_buff *skb) { return is_told(skb) ? TC_ACT_UNSPEC : ingress(skb, 1); }

SEC("tc")
int tpx_wan(struct __sk_buff *skb) { return ingress(skb, 0); }

char LICENSE[] SEC("license") = "Dual BSD/GPL";
