// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Flows that begin on the gateway itself, judged where their process calls
 * connect() or sendto(), with its identity. What is proxied keeps its address:
 * the socket gets a mark, or the datagram the loopback address as its source, and
 * by either the routing rules deliver it on lo, where sk_lookup takes it. Only
 * what is redirected is sent elsewhere, and the process goes on seeing the
 * address that it named.
 *
 * A cgroup has processes of many network namespaces; the others' are left alone.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <linux/in.h>

#include "lib/config.h"
#include "lib/count.h"
#include "lib/ctx_sock_addr.h"
#include "lib/events.h"
#include "lib/family.h"
#include "lib/flows.h"
#include "lib/local_verdict.h"
#include "lib/owner.h"
#include "lib/workers.h"

#define SOL_SOCKET 1
#define SO_MARK 36
#define ECONNREFUSED 111

/* What the return value of such a program says. */
#define DENY 0
#define ALLOW 1

static __always_inline __u32 local_mark(void) { return tpx_steer_mark | tpx_own_mark; }

/* The reason for what the rules do not decide, or 0. */
static __always_inline int reason_before_rules(struct bpf_sock *sk, const struct tpx_addr *to) {
  __u32 mark = sk->mark & tpx_mark_mask;

  if (mark == tpx_own_mark || mark == tpx_steer_mark) return TPX_R_LO_OWN_SOCKET;
  if (!bpf_sk_storage_get(&tpx_sockets, sk, 0, 0)) return TPX_R_LO_OLD_SOCKET;
  return reason_of_address(to);
}

static __noinline int judge_by_rules(struct attempt *a) {
  if (!a) return TPX_R_LO_NO_POLICY;
  load_owner(&a->owner);
  return judge_attempt(a);
}

static __always_inline struct tpx_target peer_of(const struct attempt *a) {
  return (struct tpx_target){.addr = a->flow.dst, .port = a->flow.dport};
}

static __always_inline struct tpx_peer_key peer_key(struct bpf_sock_addr *ctx,
                                                    const struct tpx_target *peer) {
  return (struct tpx_peer_key){.cookie = bpf_get_socket_cookie(ctx), .peer = *peer};
}

/* The fate of what went between the socket and the peer before, or 0. */
static __always_inline int known_fate(const struct tpx_peer_key *key) {
  struct tpx_peer *known = bpf_map_lookup_elem(&tpx_peers, key);
  __u32 now = now_s();

  if (!known || (__s32)(now - known->seen_s) > udp_flow_s()) return 0;
  if (known->seen_s != now) known->seen_s = now;
  return known->reason;
}

static __always_inline void note_fate(const struct tpx_peer_key *key, int reason) {
  struct tpx_peer fate = {.reason = reason, .seen_s = now_s()};

  bpf_map_update_elem(&tpx_peers, key, &fate, BPF_ANY);
}

static __always_inline void describe(struct bpf_sock_addr *ctx, struct bpf_sock *sk, enum ctx_family family,
                                     struct attempt *a) {
  struct tpx_target peer;

  __builtin_memset(a, 0, sizeof(*a));
  ctx_load_peer(ctx, family, &peer);
  a->flow.dst = peer.addr;
  a->flow.dport = peer.port;
  a->flow.src = ctx_bound_address(sk, family, &peer.addr);
  a->flow.sport = bpf_htons(sk->src_port);
  a->flow.proto = ctx->protocol;
  a->steerable = !sk->bound_dev_if;
}

/* For connect() and sendto() alike: sends the call to the rule's target. */
static __always_inline void redirect(struct bpf_sock_addr *ctx, struct bpf_sock *sk, enum ctx_family family,
                                     const struct attempt *a) {
  struct tpx_socket *s = bpf_sk_storage_get(&tpx_sockets, sk, 0, 0);

  if (!s) return;
  s->original = peer_of(a);
  s->actual = a->verdict.to;
  ctx_store_peer(ctx, family, &s->actual);
}

/* A socket that goes to the target of an earlier redirect by itself sees its true name. */
static __always_inline void forget_redirect(struct bpf_sock *sk) {
  struct tpx_socket *s = bpf_sk_storage_get(&tpx_sockets, sk, 0, 0);

  if (s) s->original.port = s->actual.port = 0;
}

/* The socket's redirect, if it was one to this peer. */
static __always_inline struct tpx_socket *redirected_to(struct bpf_sock *sk, const struct tpx_target *peer) {
  struct tpx_socket *s = bpf_sk_storage_get(&tpx_sockets, sk, 0, 0);

  if (!s || !s->actual.port || s->actual.port != peer->port || !addr_equal(&s->actual.addr, &peer->addr))
    return NULL;
  return s;
}

/* Whatever else others set of the mark stays. */
static __always_inline void set_mark(struct bpf_sock_addr *ctx, struct bpf_sock *sk, __u32 bits) {
  __u32 mark = (sk->mark & ~tpx_mark_mask) | bits;

  if (mark != sk->mark) bpf_setsockopt(ctx, SOL_SOCKET, SO_MARK, &mark, sizeof(mark));
}

static __noinline int report_attempt(const struct attempt *a, int reason) {
  int is_logged = a->is_ruled && a->verdict.logs;
  struct tpx_process process = {};
  struct report r = {.flow = &a->flow, .process = &process};

  if (!is_event(reason, is_logged)) return 0;
  process.cgroup = bpf_get_current_cgroup_id();
  process.pid = bpf_get_current_pid_tgid() >> 32;
  process.uid = bpf_get_current_uid_gid();
  bpf_get_current_comm(process.comm, sizeof(process.comm));
  r.outcome.is.reason = reason;
  r.outcome.is.counter = a->is_ruled ? a->verdict.counter : TPX_NO_RULE;
  r.outcome.is.worker = TPX_NO_WORKER; /* sk_lookup chooses again */
  r.outcome.is.action = a->verdict.action;
  r.outcome.is.hook = TPX_HOOK_CGROUP;
  r.outcome.is.logged = is_logged;
  return report_to_all(&r);
}

static __always_inline int conclude(const struct attempt *a, int reason) {
  enum tpx_effect effect = effect_of(reason);

  count_at(&tpx_counters, reason, 0);
  if (is_traced() || (a->is_ruled && a->verdict.logs)) report_attempt(a, reason);
  if (effect == TPX_EFFECT_ANSWER) bpf_set_retval(-ECONNREFUSED);
  return effect == TPX_EFFECT_PASS || effect == TPX_EFFECT_STEER ? ALLOW : DENY;
}

static __always_inline int is_tcp_or_udp(__u32 protocol) {
  return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP;
}

static __always_inline int on_connect(struct bpf_sock_addr *ctx, enum ctx_family family) {
  struct bpf_sock *sk = ctx->sk;
  struct tpx_peer_key key;
  struct tpx_target peer;
  struct attempt a;
  int reason;

  if (!sk || !is_tcp_or_udp(ctx->protocol) || !is_of_this_netns(bpf_get_netns_cookie(ctx))) return ALLOW;
  describe(ctx, sk, family, &a);
  reason = reason_before_rules(sk, &a.flow.dst);
  if (reason == TPX_R_LO_OWN_SOCKET) return conclude(&a, reason);
  if (!reason && ctx->protocol == IPPROTO_UDP) {
    peer = peer_of(&a);
    key = peer_key(ctx, &peer);
    reason = known_fate(&key) == TPX_R_LO_ANSWER ? TPX_R_LO_ANSWER : 0;
  }
  if (!reason) reason = judge_by_rules(&a);
  set_mark(ctx, sk, reason == TPX_R_LO_PROXY ? local_mark() : 0);
  forget_redirect(sk);
  if (reason == TPX_R_LO_REDIRECT) redirect(ctx, sk, family, &a);
  return conclude(&a, reason);
}

/* A datagram of a flow that is known, or 0 where it has to be judged. */
static __always_inline int judge_known(struct attempt *a, int fate) {
  if (fate == TPX_R_LO_ANSWER) return fate;
  if (fate == TPX_R_LO_PROXY) return has_worker(a) ? TPX_R_LO_PROXIED : 0;
  return fate && effect_of(fate) == TPX_EFFECT_PASS ? TPX_R_LO_DIRECT : 0;
}

/* An IPv6 socket that is connected to a mapped address comes to sendmsg4 with each datagram, unlike all
 * others: connect() has decided. */
static __always_inline int is_connected_to(const struct bpf_sock *sk, enum ctx_family family,
                                           const struct tpx_flow *flow) {
  return family == CTX_V4 && sk->state == BPF_TCP_ESTABLISHED && sk->dst_ip4 == flow->dst.w[3] &&
         sk->dst_port == flow->dport;
}

/* Of datagrams on sockets that are not connected. The mark was read when this runs (udp_sendmsg), the
 * source address was not. */
static __always_inline int on_sendmsg(struct bpf_sock_addr *ctx, enum ctx_family family) {
  struct bpf_sock *sk = ctx->sk;
  struct tpx_peer_key key;
  struct tpx_target peer;
  struct attempt a;
  int reason;

  if (!sk || !is_of_this_netns(bpf_get_netns_cookie(ctx))) return ALLOW;
  describe(ctx, sk, family, &a);
  if (is_connected_to(sk, family, &a.flow)) return ALLOW;
  a.steerable = a.steerable && !ctx_has_source(ctx, family);
  reason = reason_before_rules(sk, &a.flow.dst);
  peer = peer_of(&a);
  if (redirected_to(sk, &peer)) forget_redirect(sk);
  if (reason) return conclude(&a, reason);
  key = peer_key(ctx, &peer);
  reason = judge_known(&a, known_fate(&key));
  if (!reason) {
    reason = judge_by_rules(&a);
    if (effect_of(reason) == TPX_EFFECT_PASS || reason == TPX_R_LO_PROXY) note_fate(&key, reason);
  }
  if (reason == TPX_R_LO_PROXY || reason == TPX_R_LO_PROXIED) ctx_send_from_loopback(ctx, family);
  if (reason == TPX_R_LO_REDIRECT) redirect(ctx, sk, family, &a);
  return conclude(&a, reason);
}

/* The name that the process gave the peer, where that is not the peer's own. */
static __always_inline int restore_name(struct bpf_sock_addr *ctx, struct bpf_sock *sk,
                                        enum ctx_family family, const struct tpx_target *peer) {
  struct tpx_socket *s = redirected_to(sk, peer);

  if (!s) return 0;
  ctx_store_peer(ctx, family, &s->original);
  return 1;
}

/* Who hears first and answers then is a server, whatever the rules say of flows to its client. */
static __always_inline int on_recvmsg(struct bpf_sock_addr *ctx, enum ctx_family family) {
  struct bpf_sock *sk = ctx->sk;
  struct tpx_target peer;
  struct tpx_peer_key key;

  if (!sk || !is_of_this_netns(bpf_get_netns_cookie(ctx))) return ALLOW;
  ctx_load_peer(ctx, family, &peer);
  if (restore_name(ctx, sk, family, &peer) || reason_before_rules(sk, &peer.addr)) return ALLOW;
  key = peer_key(ctx, &peer);
  if (!known_fate(&key)) note_fate(&key, TPX_R_LO_ANSWER);
  return ALLOW;
}

static __always_inline int on_getpeername(struct bpf_sock_addr *ctx, enum ctx_family family) {
  struct bpf_sock *sk = ctx->sk;
  struct tpx_target peer;

  if (!sk || !is_of_this_netns(bpf_get_netns_cookie(ctx))) return ALLOW;
  ctx_load_peer(ctx, family, &peer);
  restore_name(ctx, sk, family, &peer);
  return ALLOW;
}

SEC("cgroup/connect4")
int tpx_connect4(struct bpf_sock_addr *ctx) { return on_connect(ctx, CTX_V4); }

SEC("cgroup/connect6")
int tpx_connect6(struct bpf_sock_addr *ctx) { return on_connect(ctx, CTX_V6); }

SEC("cgroup/sendmsg4")
int tpx_sendmsg4(struct bpf_sock_addr *ctx) { return on_sendmsg(ctx, CTX_V4); }

SEC("cgroup/sendmsg6")
int tpx_sendmsg6(struct bpf_sock_addr *ctx) { return on_sendmsg(ctx, CTX_V6); }

SEC("cgroup/recvmsg4")
int tpx_recvmsg4(struct bpf_sock_addr *ctx) { return on_recvmsg(ctx, CTX_V4); }

SEC("cgroup/recvmsg6")
int tpx_recvmsg6(struct bpf_sock_addr *ctx) { return on_recvmsg(ctx, CTX_V6); }

SEC("cgroup/getpeername4")
int tpx_peername4(struct bpf_sock_addr *ctx) { return on_getpeername(ctx, CTX_V4); }

SEC("cgroup/getpeername6")
int tpx_peername6(struct bpf_sock_addr *ctx) { return on_getpeername(ctx, CTX_V6); }

/* Tells the sockets that may be steered from those that were there before. */
SEC("cgroup/sock_create")
int tpx_sock_create(struct bpf_sock *sk) {
  if (is_tcp_or_udp(sk->protocol) && is_of_this_netns(bpf_get_netns_cookie(sk)))
    bpf_sk_storage_get(&tpx_sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
  return ALLOW;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
