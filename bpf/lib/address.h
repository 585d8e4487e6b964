/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Questions about one address; IPv4 is ::ffff:a.b.c.d. */
#pragma once

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "tpx_abi.h"

static __always_inline struct tpx_addr addr_from_v4(__be32 v4) {
  return (struct tpx_addr){.w = {0, 0, bpf_htonl(0xffff), v4}};
}

static __always_inline int addr_is_v4(const struct tpx_addr *a) {
  return !a->w[0] && !a->w[1] && a->w[2] == bpf_htonl(0xffff);
}

static __always_inline int addr_equal(const struct tpx_addr *a, const struct tpx_addr *b) {
  return a->w[0] == b->w[0] && a->w[1] == b->w[1] && a->w[2] == b->w[2] && a->w[3] == b->w[3];
}

static __always_inline int addr_is_unspecified(const struct tpx_addr *a) {
  return !a->w[0] && !a->w[1] && !a->w[3] && (!a->w[2] || addr_is_v4(a));
}

static __always_inline int v4_in(__be32 v4, __u32 net, __u32 mask) {
  return (v4 & bpf_htonl(mask)) == bpf_htonl(net);
}

/* Unspecified, loopback, multicast and limited broadcast: never a sender. */
static __always_inline int addr_never_sends(const struct tpx_addr *a) {
  if (addr_is_v4(a))
    return v4_in(a->w[3], 0x00000000, 0xff000000) || v4_in(a->w[3], 0x7f000000, 0xff000000) ||
           v4_in(a->w[3], 0xe0000000, 0xf0000000) || a->w[3] == bpf_htonl(0xffffffff);
  if ((a->w[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000)) return 1;
  return !a->w[0] && !a->w[1] && !a->w[2] && (!a->w[3] || a->w[3] == bpf_htonl(1));
}

/*
 * Destinations that a gateway must not lend its own identity to: the above,
 * link-local, class E, and the cloud metadata services that live outside
 * link-local (AWS fd00:ec2::254, Alibaba 100.100.100.200).
 */
static __always_inline int addr_never_proxied(const struct tpx_addr *a) {
  if (addr_never_sends(a)) return 1;
  if (addr_is_v4(a))
    return v4_in(a->w[3], 0xa9fe0000, 0xffff0000) || v4_in(a->w[3], 0xf0000000, 0xf0000000) ||
           a->w[3] == bpf_htonl(0x646464c8);
  if ((a->w[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000)) return 1;
  return a->w[0] == bpf_htonl(0xfd000ec2) && !a->w[1] && !a->w[2] && a->w[3] == bpf_htonl(0x254);
}
