/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which worker has the UDP sessions of a client's endpoint (address and port). All of them share an upstream
 * port (RFC 4787, endpoint-independent mapping), so as long as one of them lives the others go to its worker;
 * with the first one tc may choose.
 */
#pragma once

#include "tpx_abi.h"

#ifdef __cplusplus
extern "C" {
#endif

#define TPX_AFFINITIES (1 << 18)

/* In units of 2^20 ns: for so long after a datagram others of the endpoint follow it, session or not. It is
 * renewed when a quarter has passed, so 250 ms remain at least. */
#define TPX_AFFINITY_HOLD 320

/*
 * tpx_affinities[tpx_hash_of_end() of a client % TPX_AFFINITIES], memory-mapped. Endpoints with the same hash
 * share one. Changed by compare-and-swap only: by tc, which chooses the worker while nobody has sessions, and
 * by workers as sessions begin and end.
 */
struct tpx_affinity {
  /* From the lowest bit: 8 bits worker, 24 bits open sessions, 32 bits when tc has sent a datagram there, in
   * units of 2^20 ns of CLOCK_MONOTONIC. */
  __u64 word;
};
TPX_SIZE(struct tpx_affinity, 8);

static inline __u64 tpx_affinity_word(__u32 worker, __u32 sessions, __u32 seen) {
  return (__u64)seen << 32 | (__u64)(sessions & 0xffffff) << 8 | (worker & 0xff);
}
static inline __u32 tpx_affinity_worker(__u64 word) { return word & 0xff; }
static inline __u32 tpx_affinity_sessions(__u64 word) { return word >> 8 & 0xffffff; }
static inline __u32 tpx_affinity_seen(__u64 word) { return word >> 32; }

/* Of what ends on a wire: an address, IPv4 as ::ffff:a.b.c.d, and its port in network byte order. */
static inline __u64 tpx_hash_of_end(const struct tpx_addr *a, __be16 port) {
  __u64 hash = ((__u64)a->w[0] << 32 | a->w[1]) * 0x9e3779b97f4a7c15ULL;

  hash ^= (__u64)a->w[2] << 32 | a->w[3];
  hash = (hash ^ hash >> 29) * 0xbf58476d1ce4e5b9ULL + port;
  return (hash ^ hash >> 32) * 0x94d049bb133111ebULL;
}

#ifdef __cplusplus
}
#endif
