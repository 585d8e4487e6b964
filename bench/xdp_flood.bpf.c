// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Sends every frame that BPF_PROG_TEST_RUN makes out of the device that it seems to come from. */
/* clang-format off */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
/* clang-format on */

SEC("xdp")
int flood(struct xdp_md *ctx) { return ctx->data_end > ctx->data ? XDP_TX : XDP_ABORTED; }

char LICENSE[] SEC("license") = "Dual BSD/GPL";
