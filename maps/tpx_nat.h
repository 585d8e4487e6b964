/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Network address translation in tc: UDP sessions that their worker has handed over, as their rule says by
 * enum tpx_forward, and answers to the others. What tc knows nothing of goes to the worker, so an entry may
 * go at any time.
 */
#pragma once

#include "tpx_abi.h"

#ifdef __cplusplus
extern "C" {
#endif

#define TPX_MAX_TRANSLATIONS 131072 /* two for each session */

/* tpx_nat[flow as it arrives]: one direction of a session between a client and one server. */
struct tpx_translation {
  struct tpx_flow as; /* as it leaves */
  __u32 udp_ended;    /* tpx_control.udp_ended at that time: with another number it is void */
  __u8 from_lan;      /* 1: from the client */
  __u8 worker;        /* who has the session */
  __u8 action;        /* enum tpx_action, and so on: what the verdict said that it serves */
  __u8 source;
  __u8 mapping;
  __u8 forward; /* TPX_FORWARD_AUTO: only while tpx_control.watchers is 0 */
  __u8 pad[2];
  /* Changed by tc from here on. Seconds of CLOCK_MONOTONIC. */
  __u32 seen_s;     /* of the last datagram that was forwarded */
  __u32 relayed_s;  /* of the last one that was left to the worker all the same */
  __u32 device_in;  /* that it arrives by; 0: not known yet */
  __u32 device_out; /* that it leaves by; 0: not known yet. From the client: that answers arrive by */
};
TPX_SIZE(struct tpx_translation, 68);

/*
 * tpx_upstreams[TPX_UPSTREAM(is_v6, port)], memory-mapped: whose the session is that has the socket with this
 * port of the gateway's own. Answers to it go to the client by tc, where the verdict of what they answer
 * (tpx_flows) leaves that open (TPX_FORWARD_AUTO). What tc does not change is the session's worker's alone.
 */
#define TPX_UPSTREAMS (2 * 65536)
#define TPX_UPSTREAM(is_v6, port) ((is_v6) << 16 | (port)) /* host byte order */

struct tpx_upstream {
  __u32 turn; /* odd: somebody's. Raised before and after anything else changes */
  /* Changed by tc: when it has sent a datagram or a train to a client of this port last, in milliseconds of
   * CLOCK_MONOTONIC; and how many. CPUs may lose some of these. */
  __u32 answered_ms;
  __u16 answers;
  __u8 worker;
  __u8 pad;
  __be16 client_port;
  __be16 server_port; /* of a socket that hears one server only, as the client writes to it; else 0 */
  struct tpx_addr client;
  struct tpx_addr server;
  struct tpx_addr own; /* that the socket is bound to; 0: any */
};
TPX_SIZE(struct tpx_upstream, 64);

/* tpx_relayed[hash of a client's address]: the second in which an answer to any such client was left to its
 * worker, so that the stack sees that the neighbour is there. */
#define TPX_RELAYED 4096

#ifdef __cplusplus
}
#endif
