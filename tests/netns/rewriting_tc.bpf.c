// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Somebody else's tc program, in front of ours: datagrams for the port FROM are for the port TO. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

SEC("tc")
int rewriting(struct __sk_buff *skb) {
  __u32 at = ETH_HLEN + (skb->protocol == bpf_htons(ETH_P_IP) ? 20 : 40);
  __be16 from = 0, to = bpf_htons(TO);

  if (bpf_skb_load_bytes(skb, at + 2, &from, sizeof(from)) || from != bpf_htons(FROM)) return TC_ACT_UNSPEC;
  bpf_l4_csum_replace(skb, at + 6, from, to, BPF_F_MARK_MANGLED_0 | sizeof(to));
  bpf_skb_store_bytes(skb, at + 2, &to, sizeof(to), 0);
  return TC_ACT_UNSPEC;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
