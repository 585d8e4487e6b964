// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The look-up of addresses alone, without the packets: each address is random and depends on what the one
 * before was found to be, so that no look-up begins before the last has ended.
 */
/* clang-format off */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
/* clang-format on */
#include "lib/policy.h"

struct run {
  __u32 generation, count;
  __u64 v4, random, ns;
};

static long look_up(__attribute__((unused)) __u32 turn, struct run *run) {
  const struct tpx_tables *tables = tables_of(run->generation);
  struct tpx_addr addr;

  if (!tables) return 1;
  run->random ^= run->random << 13;
  run->random ^= run->random >> 7;
  run->random ^= run->random << 17;
  addr = run->v4
             ? (struct tpx_addr){.w = {0, 0, bpf_htonl(0xffff),
                                       bpf_htonl((1u << 24) + (__u32)run->random % (223u << 24))}}
             : (struct tpx_addr){.w = {bpf_htonl(0x20000000 | (__u32)run->random >> 3), run->random >> 32}};
  run->random += prefix_class(tables, run->generation, TPX_DIM_DST, &addr);
  return 0;
}

SEC("syscall")
int look_up_many(struct run *asked) {
  struct run run = *asked;
  __u64 begin = bpf_ktime_get_ns();

  bpf_loop(run.count, look_up, &run, 0);
  asked->ns = bpf_ktime_get_ns() - begin;
  asked->random = run.random;
  return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
