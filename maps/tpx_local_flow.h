/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Flows that begin on the gateway itself: what is remembered of sockets and their peers. */
#pragma once

#include "tpx_abi.h"

#ifdef __cplusplus
extern "C" {
#endif

/* tpx_sockets: with each socket that was made since the programs are there. */
struct tpx_socket {
  struct tpx_target original; /* what its process named, where `actual` was put in its place; else 0 */
  struct tpx_target actual;
};
TPX_SIZE(struct tpx_socket, 40);

/* tpx_peers: the fate of the datagrams between a socket that is not connected and one peer. */
struct tpx_peer_key {
  __u64 cookie; /* of the socket */
  struct tpx_target peer;
  __u32 pad;
};
TPX_SIZE(struct tpx_peer_key, 32);

struct tpx_peer {
  __u32 reason; /* enum tpx_reason */
  __u32 seen_s; /* CLOCK_MONOTONIC */
};
TPX_SIZE(struct tpx_peer, 8);

#ifdef __cplusplus
}
#endif
