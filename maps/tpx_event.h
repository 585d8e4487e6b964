/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Events: what a program did with one packet, for whoever listens. There are two
 * listeners with a ring buffer each, so that neither takes the other's events:
 * `trace`, which filters, and the log of rules that say so, which the proxy reads.
 *
 * A listener is there as long as its lease runs. It sets the lease to 0 when it
 * goes; that of a killed one ends, and the program that notices sets it to 0.
 */
#pragma once

#include "tpx_abi.h"

#ifdef __cplusplus
extern "C" {
#endif

#define TPX_TRACE_BYTES (1 << 20) /* of tpx_events */
#define TPX_LOG_BYTES (1 << 18)   /* of tpx_log */
/* Of one rule on one CPU, so many at once and so many a second; tpx_rule.log. */
#define TPX_LOG_BURST 10
#define TPX_LOG_PER_SECOND 10

#define TPX_NO_RULE 0xffff /* in the place of a counter: no rule was asked */
#define TPX_NO_WORKER 0xff

enum tpx_hook {
  TPX_HOOK_TC = 0,
  TPX_HOOK_LOOKUP = 1,
  TPX_HOOK_XDP = 2,
  TPX_HOOK_CGROUP = 3,
};

/* Who made a flow that begins on the gateway itself. */
struct tpx_process {
  __u64 cgroup; /* id, of cgroup v2 */
  __u32 pid;    /* 0: no process is known */
  __u32 uid;
  char comm[16]; /* the kernel's name of the thread, which it may choose; ends with a NUL */
};
TPX_SIZE(struct tpx_process, 32);

struct tpx_event {
  __u64 time_ns; /* CLOCK_MONOTONIC */
  struct tpx_flow flow;
  __u32 ifindex; /* 0 where the hook does not know it */
  __u32 mark;    /* that the packet came with */
  __u32 length;  /* of the packet from its link header on; 0 where there is none */
  __u32 skipped; /* tpx_log: events of this rule on this CPU that were not sent since its last one */
  __u16 reason;  /* enum tpx_reason */
  __u16 counter; /* tpx_rule.counter, or TPX_NO_RULE */
  __u8 mac[6];   /* of the sender; 0 where the device has none */
  __u8 worker;   /* that was chosen, or TPX_NO_WORKER */
  __u8 hook;     /* enum tpx_hook */
  __u8 action;   /* enum tpx_action of the rule */
  __u8 pad[3];
  struct tpx_process process;
};
TPX_SIZE(struct tpx_event, 112);

/* tpx_trace[0], memory-mapped: written by `trace`, before its lease begins. An event is sent if it fits all.
 */
struct tpx_trace {
  __u64 deadline_ns; /* CLOCK_MONOTONIC; 0: nobody listens */
  __u64 reasons[2];  /* bit per enum tpx_reason */
  struct tpx_addr src, src_mask;
  struct tpx_addr dst, dst_mask;
  __u32 ifindex; /* 0: any */
  __u32 counter; /* of a rule; TPX_NO_RULE: any, or none */
  __u32 every;   /* of so many that fit, on each CPU, one is sent; at least 1 */
  __be16 sport;  /* 0: any */
  __be16 dport;
  __u8 proto[2]; /* either; proto[0] = 0: any */
  __u8 pad[6];
};
TPX_SIZE(struct tpx_trace, 112);

/* tpx_log_lease[0], memory-mapped: written by the proxy. */
struct tpx_log_lease {
  __u64 deadline_ns;
};
TPX_SIZE(struct tpx_log_lease, 8);

/* tpx_event_cnts[0], per CPU. */
struct tpx_event_counts {
  __u64 matched;     /* fitted the trace; of these one of `every` is sent */
  __u64 sent;        /* to tpx_events */
  __u64 lost;        /* no room in tpx_events */
  __u64 log_sent;    /* to tpx_log */
  __u64 log_skipped; /* more than TPX_LOG_PER_SECOND */
  __u64 log_lost;    /* no room in tpx_log, or no proxy to read it */
};
TPX_SIZE(struct tpx_event_counts, 48);

/* tpx_log_rates[tpx_rule.counter], per CPU. */
struct tpx_log_rate {
  __u64 next_ns; /* CLOCK_MONOTONIC; when the next may be sent, lags behind by what may be sent at once */
  __u64 skipped; /* since the last that was sent */
};
TPX_SIZE(struct tpx_log_rate, 16);

#ifdef __cplusplus
}
#endif
