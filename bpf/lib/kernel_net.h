/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Of the kernel's network namespaces and devices what is read; where it lies, the running kernel's BTF says.
 */
#pragma once

#include <linux/netfilter.h>
#include <linux/types.h>
#include <linux/xfrm.h>

#include "kernel_layout.h"

#define NETDEV_HASHENTRIES 256

struct nf_hook_entry {
  void *hook;
} KERNEL_LAYOUT;

struct nf_hook_entries {
  __u16 num_hook_entries;
  struct nf_hook_entry hooks[];
} KERNEL_LAYOUT;

struct netns_nf {
  struct nf_hook_entries *hooks_ipv4[NF_INET_NUMHOOKS]; /* NULL where there are none */
  struct nf_hook_entries *hooks_ipv6[NF_INET_NUMHOOKS];
} KERNEL_LAYOUT;

struct netns_xfrm {
  unsigned int policy_count[XFRM_POLICY_MAX];
  __u8 policy_default[XFRM_POLICY_MAX]; /* since Linux 5.14 */
} KERNEL_LAYOUT;

struct hlist_node {
  struct hlist_node *next;
} KERNEL_LAYOUT;

struct hlist_head {
  struct hlist_node *first;
} KERNEL_LAYOUT;

struct net {
  struct hlist_head *dev_index_head; /* by ifindex */
  struct netns_nf nf;
  struct netns_xfrm xfrm;
} KERNEL_LAYOUT;

struct nsproxy {
  struct net *net_ns;
} KERNEL_LAYOUT;

struct tcf_proto {
  struct tcf_proto *next;
} KERNEL_LAYOUT;

struct mini_Qdisc {
  struct tcf_proto *filter_list; /* NULL where there are none */
} KERNEL_LAYOUT;

struct bpf_mprog_bundle {
  int count;
} KERNEL_LAYOUT;

struct bpf_mprog_fp {
  void *prog;
} KERNEL_LAYOUT;

struct bpf_mprog_entry {
  struct bpf_mprog_fp fp_items[2]; /* the first ones, without gaps */
  struct bpf_mprog_bundle *parent;
} KERNEL_LAYOUT;

struct tcx_entry {
  struct mini_Qdisc *miniq;
  struct bpf_mprog_bundle bundle;
} KERNEL_LAYOUT;

struct net_device {
  int ifindex;
  struct hlist_node index_hlist;
  struct nf_hook_entries *nf_hooks_ingress;
  struct nf_hook_entries *nf_hooks_egress; /* since Linux 5.16 */
  struct bpf_mprog_entry *tcx_ingress;     /* since Linux 6.6 */
  struct mini_Qdisc *miniq_ingress;        /* before */
} KERNEL_LAYOUT;
