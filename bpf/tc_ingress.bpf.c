// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * tc ingress: decide for each packet from a LAN or WAN device whether the stack
 * forwards it, delivers it locally (steered: only the mark is set, no byte
 * changes), refuses it with a RST, or drops it. Passing returns TC_ACT_UNSPEC, so other programs and
 * filters on the device still run.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <linux/pkt_cls.h>

#include "lib/config.h"
#include "lib/count.h"
#include "lib/ctx_skb.h"
#include "lib/parse.h"
#include "lib/policy.h"
#include "lib/reset.h"
#include "lib/sockets.h"
#include "lib/workers.h"

/* The stack forgets an incomplete datagram after 30 s (IPv4) or 60 s (IPv6). */
#define FRAGMENT_LIFE_NS (60ULL * 1000 * 1000 * 1000)

/* TCP_TIMEWAIT_LEN of the kernel. A later TIME_WAIT is that of a newer connection. */
#define TIME_WAIT_S 60

static __always_inline int is_local(const struct tpx_addr *a) {
  return bpf_map_lookup_elem(&tpx_local, a) != 0;
}

static __always_inline void hand_off(const struct tpx_flow *flow, const struct tpx_verdict *v) {
  __u32 index = flow_hash(flow) % TPX_HANDOFF_SLOTS;
  struct tpx_handoff *slot = bpf_map_lookup_elem(&tpx_handoff, &index);

  if (!slot) return;
  slot->flow = *flow;
  slot->verdict = *v;
}

/* What the rule's fail mode makes of a new flow that nobody can take. */
static __always_inline int unavailable(const struct tpx_verdict *v, int availability) {
  int busy = availability == WORKERS_BUSY;

  if (v->fail_mode == TPX_FAIL_CLOSED) return busy ? TPX_R_BUSY_CLOSED : TPX_R_DOWN_CLOSED;
  if (v->fail_mode == TPX_FAIL_RESET) return busy ? TPX_R_BUSY_RESET : TPX_R_DOWN_RESET;
  return busy ? TPX_R_BUSY_OPEN : TPX_R_DOWN_OPEN;
}

static __always_inline int reason_of_verdict(const struct tpx_flow *flow, struct tpx_verdict *v) {
  int availability;

  if (v->action == TPX_ACTION_BYPASS) return TPX_R_RULE_BYPASS;
  if (v->action == TPX_ACTION_DROP) return TPX_R_RULE_DROP;
  if (v->action == TPX_ACTION_REJECT) return flow->proto == IPPROTO_TCP ? TPX_R_RULE_REJECT : TPX_R_RULE_DROP;
  availability = tpx_pick_worker(flow, v);
  return availability == WORKER_FOUND ? TPX_R_RULE_PROXY : unavailable(v, availability);
}

/* Asks the policy about the first packet of a flow and leaves word for sk_lookup. */
static __noinline int judge_new_flow(const struct tpx_flow *flow, __u32 bytes) {
  struct tpx_verdict v = {};

  if (!flow) return TPX_R_MALFORMED;
  if (tpx_evaluate(flow, &v)) return TPX_R_NO_POLICY;
  count_at(&tpx_rule_hits, v.counter, bytes);
  v.reason = reason_of_verdict(flow, &v);
  if (effect_of(v.reason) == TPX_EFFECT_STEER) hand_off(flow, &v);
  return v.reason;
}

/* Impossible senders; the gateway's own address coming in from outside is one. */
static __always_inline int is_martian(const struct tpx_flow *f) {
  return addr_equal(&f->src, &f->dst) || addr_never_sends(&f->src) || is_local(&f->src);
}

static __always_inline __u32 now_s(void) { return bpf_ktime_get_ns() / 1000000000; }

/* The tuple of a socket in TIME_WAIT starts anew, direct: its dead predecessor
 * must not catch what follows. */
static __noinline int note_direct(const struct tpx_flow *flow, int reason) {
  struct tpx_verdict direct = {};

  if (!flow) return 0;
  direct.reason = reason;
  direct.seen_s = now_s();
  return bpf_map_update_elem(&tpx_flows, flow, &direct, BPF_ANY);
}

static __always_inline int is_noted_direct(const struct tpx_flow *flow) {
  struct tpx_verdict *direct = bpf_map_lookup_elem(&tpx_flows, flow);

  return direct && now_s() - direct->seen_s <= TIME_WAIT_S;
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

static __always_inline int judge_syn(struct __sk_buff *skb, struct packet *p) {
  int owner, reason;

  if (is_martian(&p->flow)) return TPX_R_MARTIAN;
  owner = tcp_owner(skb, &p->flow);
  if (owner == OWNED_BY_SOCKET) return TPX_R_ESTABLISHED; /* a SYN sent again */
  reason = judge_new_flow(&p->flow, skb->len);
  if (p->tcp.fin || p->tcp.rst) {
    /* Some stacks take these for a SYN; the classes that matter must not leak them. */
    if (effect_of(reason) != TPX_EFFECT_PASS) return TPX_R_BAD_FLAGS;
  } else if (owner == OWNED_BY_TIME_WAIT && effect_of(reason) == TPX_EFFECT_PASS) {
    note_direct(&p->flow, reason);
    keep_from_early_demux(skb);
  } else if (owner == OWNED_BY_TIME_WAIT) {
    bpf_map_delete_elem(&tpx_flows, &p->flow);
  }
  return reason;
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
    owner = OWNED_BY_NONE;
  }
  if (owner != OWNED_BY_NONE) return TPX_R_ESTABLISHED;
  if (!from_lan) return TPX_R_WAN;
  return is_valid_cookie(p) ? TPX_R_COOKIE : TPX_R_DIRECT;
}

static __always_inline struct tpx_frag_key frag_key(const struct packet *p) {
  return (struct tpx_frag_key){
      .src = p->flow.src,
      .dst = p->flow.dst,
      .id = p->frag_id,
      .proto = p->is_v6 ? 0 : p->flow.proto, /* IPv6 numbers per pair of addresses (RFC 8200, 4.5) */
  };
}

/* Later fragments share the first one's fate; without it, what the rules might say decides. */
static __noinline int judge_later_fragment(struct packet *p, int from_lan) {
  struct tpx_frag_key key;
  struct tpx_frag *frag;

  if (!p) return TPX_R_MALFORMED;
  key = frag_key(p);
  frag = bpf_map_lookup_elem(&tpx_frags, &key);
  /* One that rewrites the header makes the judgement on the first one worthless. */
  if (frag && !p->rewrites_tcp && bpf_ktime_get_ns() - frag->seen_ns < FRAGMENT_LIFE_NS) {
    if (frag->effect == TPX_EFFECT_STEER) return TPX_R_FRAG_STEERED;
    return frag->effect == TPX_EFFECT_PASS ? TPX_R_FRAG_PASSED : TPX_R_FRAG_DROPPED;
  }
  return from_lan && tpx_may_be_denied(&p->flow) ? TPX_R_FRAG_DROPPED : TPX_R_FRAG_PASSED;
}

static __noinline int remember_fragment(struct packet *p, int reason) {
  struct tpx_frag_key key;
  struct tpx_frag frag = {};

  if (!p) return 0;
  key = frag_key(p);
  frag.seen_ns = bpf_ktime_get_ns();
  frag.effect = effect_of(reason);
  return bpf_map_update_elem(&tpx_frags, &key, &frag, BPF_ANY);
}

static __always_inline int judge_opaque(struct packet *p, int from_lan) {
  int denied = from_lan && tpx_may_be_denied(&p->flow);

  if (p->first_fragment) return denied ? TPX_R_FRAG_DROPPED : TPX_R_FRAG_PASSED;
  return denied ? TPX_R_HEADERS_DROPPED : TPX_R_HEADERS_PASSED;
}

static __always_inline int judge_other(struct __sk_buff *skb, struct packet *p, int from_lan) {
  if (!from_lan || !concerns_other_protocols()) return TPX_R_NOT_TCP;
  return judge_new_flow(&p->flow, skb->len);
}

static __always_inline int judge(struct __sk_buff *skb, struct packet *p, int from_lan) {
  int reason;

  if (p->kind == PACKET_ICMP_ERROR && tcp_owner(skb, &p->quoted) == OWNED_BY_SOCKET) return TPX_R_ICMP_ERROR;
  if (addr_never_proxied(&p->flow.dst)) return TPX_R_SPECIAL_ADDRESS;
  if (is_local(&p->flow.dst)) return TPX_R_OWN_ADDRESS;
  if (p->kind == PACKET_TCP)
    reason = judge_tcp(skb, p, from_lan);
  else if (p->kind == PACKET_LATER_FRAGMENT)
    return judge_later_fragment(p, from_lan);
  else if (p->kind == PACKET_OPAQUE)
    return judge_opaque(p, from_lan);
  else
    reason = judge_other(skb, p, from_lan);
  if (p->first_fragment) remember_fragment(p, reason);
  return reason;
}

static __always_inline int ingress(struct __sk_buff *skb, int from_lan) {
  struct packet p;
  int reason;

  __builtin_memset(&p, 0, sizeof(p));
  if ((skb->mark & tpx_mark_mask) == tpx_own_mark)
    reason = TPX_R_OWN_MARK;
  else
    reason = parse_packet(skb, &p);
  if (reason == PARSED) reason = judge(skb, &p, from_lan);

  count_at(&tpx_counters, reason, skb->len);
  switch (effect_of(reason)) {
    case TPX_EFFECT_DROP:
      return TC_ACT_SHOT;
    case TPX_EFFECT_ANSWER:
      return answer_with_reset(skb, &p);
    case TPX_EFFECT_STEER:
      skb->mark = (skb->mark & ~tpx_mark_mask) | tpx_steer_mark;
      return TC_ACT_UNSPEC;
    default:
      /* Somebody set our bits (a veth keeps the mark): the packet would be delivered here all the same. */
      if ((skb->mark & tpx_mark_mask) == tpx_steer_mark) skb->mark &= ~tpx_mark_mask;
      return TC_ACT_UNSPEC;
  }
}

SEC("tc")
int tpx_lan(struct __sk_buff *skb) { return ingress(skb, 1); }

SEC("tc")
int tpx_wan(struct __sk_buff *skb) { return ingress(skb, 0); }

char LICENSE[] SEC("license") = "Dual BSD/GPL";
