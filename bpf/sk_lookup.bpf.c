// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * sk_lookup: runs when a packet is delivered locally and no established socket
 * owns it. Gives steered flows to their worker's listener; keeps what must not
 * be delivered from the gateway's own wildcard listeners; leaves everything
 * that is addressed to the gateway itself alone.
 *
 * For UDP it runs for every datagram; and, since the listeners have UDP_GRO,
 * once more before tc, when the driver's packets are gathered. Then nothing was
 * decided yet and the answer only says whether to gather, so it must not leave a
 * trace but the count of its reason.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "lib/config.h"
#include "lib/count.h"
#include "lib/ctx_skb.h"
#include "lib/events.h"
#include "lib/family.h"
#include "lib/flows.h"
#include "lib/policy.h"
#include "lib/sockets.h"
#include "lib/workers.h"

#define LOOPBACK 1 /* the index of lo in every network namespace */

static __always_inline int is_own(const struct tpx_addr *a) { return addr_never_proxied(a) || is_local(a); }

/* LAN devices are the others: the index is 0 where old kernels gather packets. */
static __always_inline int is_from_wan(__u32 ifindex) {
  __u32 *role = bpf_map_lookup_elem(&tpx_devices, &ifindex);

  return role && *role == TPX_ROLE_WAN;
}

/*
 * The verdict that tc gave this very packet a moment ago on this CPU, else what
 * is remembered of its UDP flow, else the policy's (handshakes completed by a SYN
 * cookie, packets that changed CPU, flows that were pushed out of the map).
 */
static __always_inline int verdict_of(const struct tpx_flow *flow, struct tpx_verdict *v) {
  __u32 index = flow_hash(flow) % TPX_HANDOFF_SLOTS;
  struct tpx_handoff *slot = bpf_map_lookup_elem(&tpx_handoff, &index);

  if (slot && addr_equal(&slot->flow.src, &flow->src) && addr_equal(&slot->flow.dst, &flow->dst) &&
      slot->flow.sport == flow->sport && slot->flow.dport == flow->dport && slot->flow.proto == flow->proto &&
      slot->verdict.reason) {
    *v = slot->verdict;
    slot->verdict.reason = 0; /* good for one packet */
    return 0;
  }
  if (flow->proto == IPPROTO_UDP) {
    struct tpx_verdict *known = bpf_map_lookup_elem(&tpx_flows, flow);

    if (known) {
      *v = *known;
      return 0;
    }
  }
  return tpx_evaluate(flow, 0, v);
}

/* Delivered on lo for an address that is not the gateway's: a process of the gateway itself sent it. */
static __always_inline int is_local_output(const struct bpf_sk_lookup *ctx) {
  struct tpx_control *control = control_block();

  return ctx->ingress_ifindex == LOOPBACK && control && control->netns_cookie;
}

static __always_inline int assign(struct bpf_sk_lookup *ctx, const struct tpx_flow *flow,
                                  struct tpx_verdict *v) {
  __u32 index, kind = tpx_listener_kind(flow, v);
  struct bpf_sock *sk;
  long err;

  if (!v->reason) {
    if (tpx_pick_worker(flow, v) != WORKER_FOUND) return TPX_R_LK_NO_WORKER;
    v->reason = TPX_R_RULE_PROXY;
  }
  index = TPX_LISTENER(v->worker, kind);
  sk = bpf_map_lookup_elem(&tpx_listeners, &index);
  if (!sk) return TPX_R_LK_NO_WORKER;
  /* The worker is chosen here; the listeners' reuseport group must not choose again. */
  err = bpf_sk_assign(ctx, sk, BPF_SK_LOOKUP_F_NO_REUSEPORT);
  bpf_sk_release(sk);
  if (err) return TPX_R_LK_NO_WORKER;
  /* For the worker, which has to know the target. */
  if (kind == TPX_LISTENER_TCP_REDIRECT) remember(flow, v);
  return TPX_R_LK_STEERED;
}

static __always_inline int decide(struct bpf_sk_lookup *ctx, struct tpx_flow *flow, struct tpx_verdict *v) {
  struct tpx_control *control = control_block();

  flow_from_lookup(ctx, flow);
  if (is_own(&flow->dst)) {
    /* Nobody has business with the listening port itself: it would proxy to itself. */
    if (control && control->listen_port && ctx->local_port == control->listen_port)
      return TPX_R_LK_LISTENER_DIALLED;
    return TPX_R_LK_OWN_ADDRESS;
  }
  if (is_from_wan(ctx->ingress_ifindex)) return TPX_R_LK_WAN;
  if (is_local_output(ctx))
    v->action = TPX_ACTION_PROXY;
  else if (verdict_of(flow, v))
    return TPX_R_LK_NOT_OURS;
  if (v->action == TPX_ACTION_BYPASS || (v->reason && !is_steered(v))) return TPX_R_LK_NOT_OURS;
  if (!is_proxied(v->action)) return TPX_R_LK_REFUSED;
  return assign(ctx, flow, v);
}

/* The log of the rule has had the flow from tc. */
static __always_inline void report(struct bpf_sk_lookup *ctx, const struct tpx_flow *flow,
                                   const struct tpx_verdict *v, int reason) {
  int is_ruled = !is_local_output(ctx) &&
                 (reason == TPX_R_LK_STEERED || reason == TPX_R_LK_REFUSED || reason == TPX_R_LK_NO_WORKER);
  union outcome_word outcome = {.is = {.reason = reason,
                                       .counter = is_ruled ? v->counter : TPX_NO_RULE,
                                       .worker = reason == TPX_R_LK_STEERED ? v->worker : TPX_NO_WORKER,
                                       .action = v->action,
                                       .hook = TPX_HOOK_LOOKUP}};
  union origin_word origin = {.is = {.ifindex = ctx->ingress_ifindex}};

  if (is_event(reason, 0)) tpx_report(flow, outcome.word, origin.word, 0, 0);
}

SEC("sk_lookup")
int tpx_sk_lookup(struct bpf_sk_lookup *ctx) {
  struct tpx_verdict v = {};
  struct tpx_flow flow = {};
  int reason;

  /* Our own tc program asking who owns a flow: a listener does not count. Of UDP it looks at what is found.
   */
  if (guard_is_set()) return ctx->protocol == IPPROTO_UDP ? SK_PASS : SK_DROP;
  reason = decide(ctx, &flow, &v);
  count_at(&tpx_counters, reason, 0);
  if (is_traced()) report(ctx, &flow, &v, reason);
  return effect_of(reason) == TPX_EFFECT_DROP ? SK_DROP : SK_PASS;
}
