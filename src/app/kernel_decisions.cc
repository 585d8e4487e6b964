// SPDX-License-Identifier: Apache-2.0
#include "kernel_decisions.h"

#include <atomic>

#include "tpx/base/status.h"
#include "tpx/bpf/maps.h"

namespace tpx::app {

absl::StatusOr<KernelDecisions> KernelDecisions::Open(const std::string& pins) {
  TPX_ASSIGN_OR_RETURN(auto flows, bpf::OpenFlows(pins, bpf::Access::kReadOnly));
  TPX_ASSIGN_OR_RETURN(auto control, bpf::OpenControl(pins, bpf::Access::kReadWrite));
  return KernelDecisions(std::move(flows), std::move(control));
}

std::optional<tpx_verdict> KernelDecisions::Find(const tpx_flow& flow) {
  const absl::StatusOr<tpx_verdict> verdict = flows_.Lookup(flow);
  return verdict.ok() ? std::optional(*verdict) : std::nullopt;
}

uint32_t KernelDecisions::UdpEnded() {
  return std::atomic_ref(control_[0].udp_ended).load(std::memory_order_acquire);
}

}  // namespace tpx::app
