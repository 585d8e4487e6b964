// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <linux/bpf.h>

#include <cstdint>

// What <linux/bpf.h> of Linux 6.1 lacks.
namespace tpx::bpf {

inline constexpr auto kTcxIngress = static_cast<bpf_attach_type>(46);  // BPF_TCX_INGRESS, Linux 6.6
inline constexpr uint32_t kLinkTypeTcx = 11;                           // BPF_LINK_TYPE_TCX
inline constexpr uint32_t kBefore = 1U << 3;                           // BPF_F_BEFORE

// struct { __u32 ifindex; __u32 attach_type; } tcx of bpf_link_info: shares its
// place and first member with the one of XDP.
inline uint32_t TcxIfindex(const bpf_link_info& info) { return info.xdp.ifindex; }

}  // namespace tpx::bpf
