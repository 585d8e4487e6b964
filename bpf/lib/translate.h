/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Datagrams of sessions that their worker has handed over (tpx_nat): their ends become those that the
 * session's sockets would give them, and they are forwarded by the FIB. Whatever is in the way of that
 * leaves them to the worker, whose session goes on all the time.
 */
#pragma once

#include "flows.h"
#include "tpx_watchers.h"
#include "forward.h"

#define UDP_CHECK_AT 6
#define RELAYED_EVERY_S 20 /* connection tracking forgets UDP after 30 s at the earliest */

static __always_inline int may_be_translated(const struct packet *p) {
  struct tpx_control *control = control_block();

  return p->kind == PACKET_UDP && control && control->translates;
}

/* A killed one leaves its sessions for the rest of its lease. */
static __always_inline int is_alive(__u32 worker) {
  struct tpx_worker *w = bpf_map_lookup_elem(&tpx_workers, &worker);

  return w && *(volatile __u32 *)&w->state != TPX_WORKER_ABSENT &&
         *(volatile __u64 *)&w->deadline_ns >= tick_ns();
}

static __always_inline int is_served(const struct tpx_translation *t) {
  struct tpx_control *control = control_block();

  return control && t->udp_ended == control->udp_ended && is_alive(t->worker);
}

/* As the rule says, or as long as nobody watches, by what the proxy has seen in the last seconds. */
static __always_inline int is_for_tc(__u8 forward, __u32 now) {
  const volatile struct tpx_control *control = control_block();

  if (forward != TPX_FORWARD_AUTO) return forward;
  return control && !control->watchers && (__s32)(now - control->watchers_s) <= TPX_WATCHERS_HOLD_S;
}

/* Netfilter's hooks at the egress do not see what tc sends: the proxy looks for them where we are attached.
 */
static __always_inline int may_leave_by(__u8 forward, __u32 device) {
  return forward != TPX_FORWARD_AUTO || bpf_map_lookup_elem(&tpx_devices, &device);
}

/* Whether a session serves what the verdict asks for. Its own address may have gone since. */
static __always_inline int serves(const struct tpx_translation *t, const struct tpx_flow *flow,
                                  const struct tpx_verdict *v) {
  if (!is_steered(v) || v->action != t->action || v->source != t->source || v->mapping != t->mapping ||
      v->worker != t->worker)
    return 0;
  if (v->action == TPX_ACTION_REDIRECT && (!addr_equal(&v->to.addr, &t->as.dst) || v->to.port != t->as.dport))
    return 0;
  return addr_equal(&t->as.src, &flow->src) || is_local(&t->as.src);
}

/* Once a second: the verdict has to live, and everybody who asks tpx_flows has to see that it does. */
static __always_inline int is_still_decided(const struct tpx_flow *flow, const struct tpx_translation *t,
                                            __u32 now) {
  struct tpx_verdict *v = bpf_map_lookup_elem(&tpx_flows, flow);

  if (!v || age_s(v, now) > udp_flow_s() || !serves(t, flow, v)) return 0;
  note_seen(flow, v, now);
  return 1;
}

/*
 * An answer came to where the client's datagrams say that they are from: nobody behind us translates them
 * further, so tc may send them, by the device that the answer came by. Before that they go through the stack,
 * where somebody may, and where routes may be chosen by the proxy's mark.
 */
static __always_inline void note_answer(const struct tpx_translation *answer, __u32 device) {
  struct tpx_flow asked = reverse_of(&answer->as);
  struct tpx_translation *t = bpf_map_lookup_elem(&tpx_nat, &asked);

  if (t && !t->device_out) t->device_out = device;
}

/*
 * Connection tracking and neighbours forget whom they do not see: now and then one goes their way. It may
 * be overtaken, so rather a single datagram than a train.
 */
static __always_inline int is_for_the_stack_to_see(const struct __sk_buff *skb, __u32 *relayed_s, __u32 now) {
  __s32 enough = skb->gso_size ? 2 * RELAYED_EVERY_S : RELAYED_EVERY_S;

  if ((__s32)(now - *relayed_s) < enough) return 0;
  *relayed_s = now;
  return 1;
}

/* The first one of each second is looked at closely. */
static __always_inline int may_go(const struct __sk_buff *skb, const struct tpx_flow *flow,
                                  struct tpx_translation *t, __u32 now) {
  if (t->from_lan && !t->device_out) return 0;
  if (t->device_in && t->device_in != skb->ifindex) return 0;
  if (t->seen_s == now) return 1;
  if (is_for_the_stack_to_see(skb, &t->relayed_s, now)) return 0;
  if (t->from_lan) return is_still_decided(flow, t, now);
  note_answer(t, skb->ifindex);
  return 1;
}

/* Once nothing stands in the way. By another device it may need another address of the gateway's, which the
 * worker finds. CPUs share the entry. */
static __always_inline int goes_by(const struct __sk_buff *skb, struct tpx_translation *t, __u32 device,
                                   __u32 now) {
  if (t->device_out != device) {
    if (t->device_out || !may_leave_by(t->forward, device)) return 0;
    t->device_out = device;
  }
  if (!t->device_in) t->device_in = skb->ifindex;
  if (t->seen_s != now) t->seen_s = now;
  return 1;
}

static __always_inline __be32 ports_of(const struct tpx_flow *flow) { return *(const __be32 *)&flow->sport; }

/* Of what the device is to finish, the checksum covers the addresses only; one of 0 says that there is none.
 */
static __always_inline long rewrite_udp(struct __sk_buff *skb, const struct packet *p,
                                        const struct tpx_flow *as, __u32 changed) {
  __u32 at = ETHERNET_LEN + fixed_header_len(p);
  __be32 ports = ports_of(as);

  if (bpf_l4_csum_replace(skb, at + UDP_CHECK_AT, 0, changed, BPF_F_PSEUDO_HDR | BPF_F_MARK_MANGLED_0) ||
      bpf_l4_csum_replace(skb, at + UDP_CHECK_AT, ports_of(&p->flow), ports,
                          BPF_F_MARK_MANGLED_0 | sizeof(ports)))
    return -1;
  return bpf_skb_store_bytes(skb, at, &ports, sizeof(ports), 0);
}

static __always_inline int send_as(struct __sk_buff *skb, const struct packet *p, const struct tpx_flow *as,
                                   const struct bpf_fib_lookup *fib) {
  __u32 changed = bpf_csum_diff((__be32 *)&p->flow, ENDS_LEN, (__be32 *)as, ENDS_LEN, 0);

  if (rewrite_udp(skb, p, as, changed) || rewrite(skb, p, fib, as, changed)) return TC_ACT_SHOT;
  skb->mark = tpx_own_mark; /* as the worker's sockets have it, for who classifies at the egress */
  return bpf_redirect(fib->ifindex, 0);
}

/*
 * As forward_by_fib(): TC_ACT_UNSPEC where nothing was done and the packet is to be judged. An entry that is
 * deleted may be another session's at once, so what it says is copied, and it is looked up once more.
 */
static __noinline int forward_translated(struct __sk_buff *skb, struct packet *p, int from_lan) {
  struct bpf_fib_lookup fib = {};
  struct tpx_translation *t;
  struct tpx_flow as;
  __u32 now = now_s();

  if (!p) return TC_ACT_UNSPEC;
  t = bpf_map_lookup_elem(&tpx_nat, &p->flow);
  if (!t || t->from_lan != from_lan || !is_served(t) || !is_for_tc(t->forward, now) ||
      !may_go(skb, &p->flow, t, now))
    return TC_ACT_UNSPEC;
  as = t->as;
  if (find_way(skb, p, &as, &fib) || bpf_map_lookup_elem(&tpx_nat, &p->flow) != t ||
      !goes_by(skb, t, fib.ifindex, now))
    return TC_ACT_UNSPEC;
  return send_as(skb, p, &as, &fib);
}

/* Whoever an ICMP error is about has to learn of it: the worker has the session back. */
static __noinline int give_back(const struct tpx_flow *quoted) {
  struct tpx_flow reversed;
  struct tpx_translation *t;
  struct tpx_verdict *v;

  if (!quoted) return 0;
  v = bpf_map_lookup_elem(&tpx_flows, quoted);
  if (v) v->relayed = 1;
  t = bpf_map_lookup_elem(&tpx_nat, quoted);
  if (!t) return 0;
  reversed = reverse_of(&t->as);
  bpf_map_delete_elem(&tpx_nat, quoted);
  return bpf_map_delete_elem(&tpx_nat, &reversed);
}
