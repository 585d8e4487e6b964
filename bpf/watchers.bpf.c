// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Looks for those in the caller's network namespace who see what goes through the stack: hooks of netfilter
 * (rules, connection tracking, IPVS, BPF), policies of IPsec, and programs or filters of others at the
 * ingress of our devices. Never attached: user space runs it, on what it reads of the kernel's own
 * structures.
 *
 * Nothing is locked. What changes at this moment may be seen half, and is seen whole the next time.
 */
#include <linux/bpf.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#include "lib/kernel_net.h"
#include "tpx_maps.bpf.h"
#include "tpx_watchers.h"

#define MAX_HOOKS 8    /* of one place; more are somebody's */
#define MAX_CHAINED 64 /* devices of one hash */

#define FOUND(watcher) (1U << (watcher))

/* AppArmor has a hook in each namespace and looks only at packets that carry a security mark, which rules of
 * netfilter give. */
static const char harmless[] = "apparmor_ip_postroute";
static const char as_symbol[] = "%ps";

static __always_inline int is_harmless(__u64 function) {
  char name[sizeof(harmless) + 1] = {};

  bpf_snprintf(name, sizeof(name), as_symbol, &function, sizeof(function)); /* what is longer is cut */
#pragma unroll
  for (__u32 i = 0; i < sizeof(harmless); i++)
    if (name[i] != harmless[i]) return 0;
  return 1;
}

/* Global functions, so that the verifier follows their loops once. Of pointers they take the numbers. */

/* Whether any function is hooked there but the harmless one. */
__weak __noinline int tpx_has_hooks(__u64 entries) {
  const struct nf_hook_entries *hooks = (const void *)entries;
  const void *at = (const void *)hooks + bpf_core_field_offset(struct nf_hook_entries, hooks);
  __u32 count;

  if (!hooks) return 0;
  count = BPF_CORE_READ(hooks, num_hook_entries);
  if (count > MAX_HOOKS) return 1;
  for (__u32 i = 0; i < MAX_HOOKS && i < count; i++) {
    const struct nf_hook_entry *entry = at + i * bpf_core_type_size(struct nf_hook_entry);

    if (!is_harmless((__u64)BPF_CORE_READ(entry, hook))) return 1;
  }
  return 0;
}

/* 0 where there is none. */
__weak __noinline __u64 tpx_device_of(__u64 namespace, __u32 ifindex) {
  const struct net *net = (const void *)namespace;
  const struct hlist_head *heads = BPF_CORE_READ(net, dev_index_head);
  const struct hlist_node *node = BPF_CORE_READ(heads + ifindex % NETDEV_HASHENTRIES, first);
  const __u64 offset = bpf_core_field_offset(struct net_device, index_hlist);

  for (int i = 0; i < MAX_CHAINED && node; i++) {
    const struct net_device *device = (const void *)node - offset;

    if (BPF_CORE_READ(device, ifindex) == ifindex) return (__u64)device;
    node = BPF_CORE_READ(node, next);
  }
  return 0;
}

static __always_inline __u32 hooks_at(const struct net *net, int hook, enum tpx_watcher watcher) {
  __u32 found = 0;

  if (tpx_has_hooks((__u64)BPF_CORE_READ(net, nf.hooks_ipv4[hook]))) found |= FOUND(watcher);
  if (tpx_has_hooks((__u64)BPF_CORE_READ(net, nf.hooks_ipv6[hook]))) found |= FOUND(watcher + 1);
  return found;
}

static __always_inline __u32 netfilter_of(const struct net *net) {
  if (!bpf_core_field_exists(net->nf)) return 0;
  return hooks_at(net, NF_INET_PRE_ROUTING, TPX_WATCHER_PREROUTING) |
         hooks_at(net, NF_INET_LOCAL_IN, TPX_WATCHER_INPUT) |
         hooks_at(net, NF_INET_LOCAL_OUT, TPX_WATCHER_OUTPUT) |
         hooks_at(net, NF_INET_POST_ROUTING, TPX_WATCHER_POSTROUTING);
}

static __always_inline __u32 ipsec_of(const struct net *net) {
  __u32 policies = 0;

  if (!bpf_core_field_exists(net->xfrm)) return 0;
#pragma unroll
  for (int direction = 0; direction < XFRM_POLICY_MAX; direction++)
    policies |= BPF_CORE_READ(net, xfrm.policy_count[direction]);
#pragma unroll
  for (int direction = 0; direction < XFRM_POLICY_MAX; direction++)
    if (bpf_core_field_exists(net->xfrm.policy_default))
      policies |= BPF_CORE_READ(net, xfrm.policy_default[direction]) == XFRM_USERPOLICY_BLOCK;
  return policies ? FOUND(TPX_WATCHER_XFRM) : 0;
}

/* Ours is one of them. */
static __always_inline int has_filters(const struct mini_Qdisc *qdisc, int ours) {
  const struct tcf_proto *filter = qdisc ? BPF_CORE_READ(qdisc, filter_list) : 0;

  return ours && filter ? BPF_CORE_READ(filter, next) != 0 : filter != 0;
}

/* From Linux 6.6 on, programs come first and then the filters of a qdisc. Ours may be either. */
static __always_inline int shares_ingress(const struct net_device *device) {
  const struct bpf_mprog_entry *programs;
  const struct tcx_entry *entry;

  if (!bpf_core_field_exists(device->tcx_ingress))
    return has_filters(BPF_CORE_READ(device, miniq_ingress), 1);
  programs = BPF_CORE_READ(device, tcx_ingress);
  if (!programs) return 0;
  if (BPF_CORE_READ(programs, fp_items[1].prog)) return 1;
  entry = (const void *)BPF_CORE_READ(programs, parent) - bpf_core_field_offset(struct tcx_entry, bundle);
  return has_filters(BPF_CORE_READ(entry, miniq), !BPF_CORE_READ(programs, fp_items[0].prog));
}

struct search {
  const struct net *net;
  __u32 found;
};

struct bpf_map;

static long look_at_device(struct bpf_map *map __attribute__((unused)), const __u32 *ifindex,
                           const __u32 *role __attribute__((unused)), struct search *search) {
  const struct net_device *device = (const void *)tpx_device_of((__u64)search->net, *ifindex);

  if (!device) {
    search->found |= FOUND(TPX_WATCHER_UNKNOWN);
    return 0;
  }
  if (bpf_core_field_exists(device->nf_hooks_ingress) &&
      tpx_has_hooks((__u64)BPF_CORE_READ(device, nf_hooks_ingress)))
    search->found |= FOUND(TPX_WATCHER_DEVICE);
  if (bpf_core_field_exists(device->nf_hooks_egress) &&
      tpx_has_hooks((__u64)BPF_CORE_READ(device, nf_hooks_egress)))
    search->found |= FOUND(TPX_WATCHER_DEVICE);
  if (shares_ingress(device)) search->found |= FOUND(TPX_WATCHER_TC);
  return 0;
}

SEC("syscall")
int tpx_watchers(struct tpx_watchers *w) {
  const struct task_struct *task = (const void *)bpf_get_current_task();
  struct search search = {.net = BPF_CORE_READ(task, nsproxy, net_ns)};

  w->found = FOUND(TPX_WATCHER_UNKNOWN);
  if (!search.net) return 0;
  search.found = netfilter_of(search.net) | ipsec_of(search.net);
  if (bpf_for_each_map_elem(&tpx_devices, look_at_device, &search, 0) >= 0) w->found = search.found;
  return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
