/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What XDP tells tc of a packet that tc would pass untouched, in the metadata in front of the frame.
 *
 * Metadata may be somebody else's, and an skb keeps it on its way through other devices, rewritten by NAT or
 * not: XDP that leaves none does not clear it. So the note is only good for the packet that it was written
 * about: a word made of the load's own random key, the device, both ends, and what is said. It is the same
 * for each packet of a flow, because GRO only merges what has the same metadata.
 */
#pragma once

#include <bpf/bpf_helpers.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

#include "config.h"
#include "tpx_abi.h"

struct note {
  __u64 word;
  __u16 reason;  /* enum tpx_reason, of those that pass */
  __u16 counter; /* of the rule, or TPX_NO_RULE */
  __u32 pad;     /* 0 */
};

static __always_inline __u64 mixed(__u64 hash, __u64 with) {
  hash = (hash ^ with) * 0x9e3779b97f4a7c15ULL;
  return hash ^ hash >> 32;
}

static __always_inline __u64 two_words(const __be32 *word) { return (__u64)word[0] << 32 | word[1]; }

static __always_inline __u64 key_for(const struct note *note, __u8 proto) {
  return tpx_note_key + ((__u64)note->reason << 32 | (__u64)note->counter << 8 | proto);
}

/* Ports are 0 where the protocol has none. */
static __always_inline __u64 word_of_v4(const struct note *note, const struct iphdr *ip, __be32 ports,
                                        __u32 ifindex) {
  __u64 word = mixed(key_for(note, ip->protocol), two_words(&ip->saddr));

  return mixed(word, (__u64)ports << 32 | ifindex);
}

static __always_inline __u64 word_of_v6(const struct note *note, const struct ipv6hdr *ip, __be32 ports,
                                        __u32 ifindex) {
  const __be32 *ends = ip->saddr.in6_u.u6_addr32;
  __u64 word = key_for(note, ip->nexthdr);

#pragma unroll
  for (int i = 0; i < 8; i += 2) word = mixed(word, two_words(ends + i));
  return mixed(word, (__u64)ports << 32 | ifindex);
}
