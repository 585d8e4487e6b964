/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The process that runs, as far as the policy asks. */
#pragma once

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#include "kernel_socket.h"
#include "policy.h"

struct super_block {
  __u32 s_dev;
} KERNEL_LAYOUT;

struct inode {
  unsigned long i_ino;
  struct super_block *i_sb;
} KERNEL_LAYOUT;

struct file {
  struct inode *f_inode;
} KERNEL_LAYOUT;

struct mm_struct {
  struct file *exe_file;
} KERNEL_LAYOUT;

struct task_struct {
  struct mm_struct *mm; /* NULL in a kernel thread */
} KERNEL_LAYOUT;

/* The file that the program was started from. */
static __always_inline void load_exe(struct tpx_owner *owner) {
  struct task_struct *task = (void *)bpf_get_current_task();
  struct inode *inode = BPF_CORE_READ(task, mm, exe_file, f_inode);

  owner->exe_inode = BPF_CORE_READ(inode, i_ino);
  owner->exe_device = BPF_CORE_READ(inode, i_sb, s_dev);
}

/* Deeper than cgroups are nested in practice; a process below gets the rules of its ancestor here. */
#define CGROUP_LEVELS 32

/* The nearest cgroup upwards that rules name. */
static __noinline __u64 nearest_cgroup(void) {
  struct tpx_attribute_key key = {.attribute = TPX_ATTR_CGROUP};
  __u32 slot = live_generation() & 1;
  __u64 nearest = 0;
  void *attributes;

  attributes = bpf_map_lookup_elem(&tpx_attributes, &slot);
  if (!attributes) return 0;
  for (int level = 0; level < CGROUP_LEVELS; level++) {
    key.value = bpf_get_current_ancestor_cgroup_id(level);
    if (!key.value) break;
    if (bpf_map_lookup_elem(attributes, &key)) nearest = key.value;
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
