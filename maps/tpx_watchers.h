/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Who on this machine sees datagrams because they go through the stack, and would miss those that tc
 * forwards, or makes them take another way there: what TPX_FORWARD_AUTO depends on. The program
 * tpx_watchers is run on the struct of that name.
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
  TPX_WATCHER_DEVICE = 8,   /* netfilter's ingress or egress hook of a device that we are attached to */
  TPX_WATCHER_TC = 9,       /* somebody else's program or filter at the ingress of such a device */
  TPX_WATCHER_XFRM = 10,    /* policies of IPsec */
  TPX_WATCHER_RULES = 11,   /* routing rules that ask for more than both ends; user space finds these */
  TPX_WATCHER_UNKNOWN = 12, /* the kernel cannot be asked */
  TPX_WATCHERS = 13,
};

#define TPX_WATCHERS_HOLD_S 3 /* for so long after run has looked */

struct tpx_watchers {
  __u32 found; /* bits */
};
TPX_SIZE(struct tpx_watchers, 4);

#ifdef __cplusplus
}
#endif
