/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The process that runs, as far as the policy asks. */
#pragma once

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#include "kernel_layout.h"
#include "policy.h"
#include "tpx_local_trial.h"

/* The file that the program was started from. */
static __always_inline void load_exe(struct tpx_owner *owner) {
  struct task_struct *task = (void *)bpf_get_current_task();
  struct inode *inode = BPF_CORE_READ(task, mm, exe_file, f_inode);

  owner->exe_inode = BPF_CORE_READ(inode, i_ino);
  owner->exe_device = BPF_CORE_READ(inode, i_sb, s_dev);
}

static __noinline int is_named_cgroup(__u64 id) {
  struct tpx_attribute_key key = {.value = id, .attribute = TPX_ATTR_CGROUP};
  __u32 slot = live_generation() & 1;
  void *attributes = bpf_map_lookup_elem(&tpx_attributes, &slot);

  return attributes && bpf_map_lookup_elem(attributes, &key);
}

/* The nearest cgroup upwards that rules name. */
static __noinline __u64 nearest_cgroup(void) {
  __u64 nearest = 0, id;

  for (int level = 0; level < TPX_CGROUP_LEVELS; level++) {
    id = bpf_get_current_ancestor_cgroup_id(level);
    if (!id) break;
    if (is_named_cgroup(id)) nearest = id;
  }
  return nearest;
}

static __noinline int load_owner(struct tpx_owner *owner) {
  __u32 asked = asked_attributes();
  __u64 id;

  if (!owner) return 0;
  id = bpf_get_current_uid_gid();
  owner->uid = id;
  owner->gid = id >> 32;
  if (asked & 1 << TPX_ATTR_CGROUP) owner->cgroup = nearest_cgroup();
  if (asked & 1 << TPX_ATTR_EXE) load_exe(owner);
  return 0;
}
