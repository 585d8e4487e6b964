/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Who on this machine sees datagrams because they go through the stack, and would miss those that tc
 * forwards: what TPX_FORWARD_AUTO depends on. The program tpx_watchers is run on the struct of that name.
 */
#pragma once

#include "tpx_abi.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Bits of tpx_watchers.found and tpx_control.watchers. Netfilter's are hooks of the network namespace, by
 * family; its own packets pass each of the four. */
enum tpx_watcher {
  TPX_WATCHER_PREROUTING = 0, /* IPv4; 1 for IPv6, and so on */
  TPX_WATCHER_INPUT = 2,
  TPX_WATCHER_OUTPUT = 4,
  TPX_WATCHER_POSTROUTING = 6,
  TPX_WATCHER_DEVICE = 8,   /* netfilter's ingress hook of a device that we are attached to */
  TPX_WATCHER_TC = 9,       /* somebody else's program or filter at the ingress of such a device */
  TPX_WATCHER_XFRM = 10,    /* policies of IPsec */
  TPX_WATCHER_UNKNOWN = 11, /* the kernel cannot be asked */
  TPX_WATCHERS = 12,
};

struct tpx_watchers {
  __u64
      harmless; /* address of the function of netfilter that is no watcher; 0: not looked for yet, 1: none */
  __u32 found;  /* answer: bits */
  __u32 pad;
};
TPX_SIZE(struct tpx_watchers, 16);

#ifdef __cplusplus
}
#endif
