/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a program did with a packet, sent to whoever listens (tpx_event.h). While
 * nobody does, a program looks once at the lease of `trace` and goes on.
 *
 * tpx_report is for every type of program: it knows no packet, only what it is told.
 */
#pragma once

#include <bpf/bpf_helpers.h>

#include "address.h"
#include "tpx_maps.bpf.h"

/* What a hook has decided, in one register. */
struct outcome {
  __u16 reason;  /* enum tpx_reason */
  __u16 counter; /* of the rule that was asked, or TPX_NO_RULE */
  __u8 worker;   /* or TPX_NO_WORKER */
  __u8 action;   /* of the rule */
  __u8 hook;     /* enum tpx_hook */
  __u8 logged;   /* the rule's log is to have it */
};

/* Where the packet came by, in one register. */
struct origin {
  __u32 ifindex;
  __u32 length;
};

union outcome_word {
  struct outcome is;
  __u64 word;
};

union origin_word {
  struct origin is;
  __u64 word;
};

static __always_inline struct tpx_trace *trace_block(void) {
  __u32 zero = 0;

  return bpf_map_lookup_elem(&tpx_trace, &zero);
}

/* A lookup in an array of one is no call: the verifier makes an address of it. */
static __always_inline int is_traced(void) {
  struct tpx_trace *trace = trace_block();

  return trace && *(volatile __u64 *)&trace->deadline_ns;
}

static __always_inline int trace_wants(const struct tpx_trace *trace, __u32 reason) {
  return trace->reasons[reason >> 6 & 1] >> (reason & 63) & 1;
}

/* Before anything is fetched that only an event needs. */
static __always_inline int is_event(__u32 reason, int is_logged) {
  struct tpx_trace *trace;

  if (is_logged) return 1;
  trace = trace_block();
  return trace && trace_wants(trace, reason);
}

/* Ends the lease of a listener that did not renew it, so that the next packet need not read the clock. */
static __always_inline int lease_runs(__u64 *deadline_ns, __u64 now) {
  __u64 seen = *(volatile __u64 *)deadline_ns;

  if (seen > now) return 1;
  if (seen) __sync_val_compare_and_swap(deadline_ns, seen, 0);
  return 0;
}

static __always_inline int is_within(const struct tpx_addr *addr, const struct tpx_addr *prefix,
                                     const struct tpx_addr *mask) {
  __u32 differs = 0;

#pragma unroll
  for (int i = 0; i < 4; i++) differs |= (addr->w[i] & mask->w[i]) ^ prefix->w[i];
  return !differs;
}

/* What both listeners get of a packet, and when. */
struct report {
  const struct tpx_flow *flow;
  union outcome_word outcome;
  union origin_word origin;
  __u32 mark;
  __u64 mac;
  __u64 now;
  const struct tpx_process *process; /* or NULL */
};

static __always_inline int fits_trace(const struct tpx_trace *trace, const struct report *r) {
  const struct tpx_flow *flow = r->flow;

  if (!trace_wants(trace, r->outcome.is.reason)) return 0;
  if (trace->proto[0] && flow->proto != trace->proto[0] && flow->proto != trace->proto[1]) return 0;
  if (trace->sport && flow->sport != trace->sport) return 0;
  if (trace->dport && flow->dport != trace->dport) return 0;
  if (trace->ifindex && r->origin.is.ifindex != trace->ifindex) return 0;
  if (trace->counter != TPX_NO_RULE && r->outcome.is.counter != trace->counter) return 0;
  return is_within(&flow->src, &trace->src, &trace->src_mask) &&
         is_within(&flow->dst, &trace->dst, &trace->dst_mask);
}

/* Whether the rule's log may have another one now: next_ns is when the whole burst will be there again. */
static __always_inline int take_log(struct tpx_log_rate *rate, __u64 now) {
  const __u64 interval = 1000000000ULL / TPX_LOG_PER_SECOND;
  __u64 next = (rate->next_ns < now ? now : rate->next_ns) + interval;

  if (next > now + TPX_LOG_BURST * interval) return 0;
  rate->next_ns = next;
  return 1;
}

static __always_inline void fill_event(struct tpx_event *event, const struct report *r, __u32 skipped) {
  event->time_ns = r->now;
  event->flow = *r->flow;
  event->ifindex = r->origin.is.ifindex;
  event->mark = r->mark;
  event->length = r->origin.is.length;
  event->skipped = skipped;
  event->reason = r->outcome.is.reason;
  event->counter = r->outcome.is.counter;
  __builtin_memcpy(event->mac, &r->mac, sizeof(event->mac));
  event->worker = r->outcome.is.worker;
  event->hook = r->outcome.is.hook;
  event->action = r->outcome.is.action;
  __builtin_memset(event->pad, 0, sizeof(event->pad));
  if (r->process)
    event->process = *r->process;
  else
    __builtin_memset(&event->process, 0, sizeof(event->process));
}

/* Wakes nobody: the reader of a trace looks often, and a flood must not wake it for each packet. */
static __always_inline void report_to_trace(struct tpx_trace *trace, const struct report *r,
                                            struct tpx_event_counts *counts) {
  struct tpx_event *event;

  if (!lease_runs(&trace->deadline_ns, r->now) || !fits_trace(trace, r)) return;
  if (counts->matched++ % (trace->every ? trace->every : 1)) return;
  event = bpf_ringbuf_reserve(&tpx_events, sizeof(*event), 0);
  if (!event) {
    counts->lost++;
    return;
  }
  fill_event(event, r, 0);
  bpf_ringbuf_submit(event, BPF_RB_NO_WAKEUP);
  counts->sent++;
}

static __always_inline void report_to_log(struct tpx_log_lease *lease, const struct report *r,
                                          struct tpx_event_counts *counts) {
  __u32 counter = r->outcome.is.counter;
  struct tpx_log_rate *rate;
  struct tpx_event *event;

  rate = bpf_map_lookup_elem(&tpx_log_rates, &counter);
  if (!rate) return;
  if (!take_log(rate, r->now)) {
    rate->skipped++;
    counts->log_skipped++;
    return;
  }
  event = lease_runs(&lease->deadline_ns, r->now) ? bpf_ringbuf_reserve(&tpx_log, sizeof(*event), 0) : 0;
  if (!event) {
    rate->skipped++;
    counts->log_lost++;
    return;
  }
  fill_event(event, r, rate->skipped);
  bpf_ringbuf_submit(event, 0);
  rate->skipped = 0;
  counts->log_sent++;
}

static __always_inline int report_to_all(struct report *r) {
  struct tpx_event_counts *counts;
  struct tpx_log_lease *lease;
  struct tpx_trace *trace;
  __u32 zero = 0;

  trace = trace_block();
  counts = bpf_map_lookup_elem(&tpx_event_cnts, &zero);
  lease = bpf_map_lookup_elem(&tpx_log_lease, &zero);
  if (!trace || !counts || !lease) return 0;
  r->now = bpf_ktime_get_ns();
  report_to_trace(trace, r, counts);
  if (r->outcome.is.logged) report_to_log(lease, r, counts);
  return 0;
}

/* Tells the listeners of a packet. The first byte of the MAC address is the lowest; what a hook does not know
 * is 0. */
__weak __noinline int tpx_report(const struct tpx_flow *flow, __u64 outcome, __u64 origin, __u32 mark,
                                 __u64 mac) {
  struct report r = {.flow = flow, .outcome.word = outcome, .origin.word = origin, .mark = mark, .mac = mac};

  return flow ? report_to_all(&r) : 0;
}
