// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Somebody else's tc program: drops TCP to one port, leaves the rest to those behind it. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

SEC("tc")
int foreign(struct __sk_buff *skb) {
  __u32 at = ETH_HLEN + (skb->protocol == bpf_htons(ETH_P_IP) ? 20 : 40) + 2;
  __be16 port = 0;

  if (bpf_skb_load_bytes(skb, at, &port, sizeof(port))) return TC_ACT_UNSPEC;
  return port == bpf_htons(PORT) ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
