/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Of the kernel's own structures what is read; where it lies, the running kernel's BTF says. */
#pragma once

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <linux/types.h>

#define KERNEL_LAYOUT __attribute__((preserve_access_index))

struct ipv6_pinfo {
  __s16 hop_limit; /* -1 while none is set; up to Linux 6.6 a bit field */
} KERNEL_LAYOUT;

struct inet_sock {
  struct ipv6_pinfo *pinet6; /* NULL where a socket is of IPv4 alone */
  __s16 uc_ttl;              /* -1 while none is set */
} KERNEL_LAYOUT;

struct inet_connection_sock {
  struct inet_sock icsk_inet;
} KERNEL_LAYOUT;

struct tcp_sock {
  struct inet_connection_sock inet_conn;
  __u64 bytes_received;
} KERNEL_LAYOUT;

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
  struct nsproxy *nsproxy;
} KERNEL_LAYOUT;

/* The hop limit that a socket was told to send with, or -1. */
static __always_inline int hop_limit_of(const struct tcp_sock *tcp, int is_v6) {
  const struct inet_sock *inet = &tcp->inet_conn.icsk_inet;
  const struct ipv6_pinfo *v6;

  if (!is_v6) return BPF_CORE_READ_BITFIELD(inet, uc_ttl);
  v6 = inet->pinet6;
  return v6 ? (int)BPF_CORE_READ_BITFIELD(v6, hop_limit) : -1;
}
