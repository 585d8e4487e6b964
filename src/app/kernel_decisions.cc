// SPDX-License-Identifier: Apache-2.0
#include "kernel_decisions.h"

#include <atomic>

#include "tpx/base/status.h"
#include "tpx/bpf/maps.h"

namespace tpx::app {

absl::StatusOr<KernelDecisions> KernelDecisions::Open(const std::string& pins) {
  TPX_ASSIGN_OR_RETURN(auto flows, bpf::OpenFlows(pins, bpf::Access::kReadOnly));
  TPX_ASSIGN_OR_RETURN(auto sockets, bpf::OpenSockets(pins, bpf::Access::kReadWrite));
  TPX_ASSIGN_OR_RETURN(auto local, bpf::OpenLocal(pins, bpf::Access::kReadOnly));
  TPX_ASSIGN_OR_RETURN(auto control, bpf::OpenControl(pins, bpf::Access::kReadWrite));
  return KernelDecisions(std::move(flows), std::move(sockets), std::move(local), std::move(control));
}

std::optional<tpx_verdict> KernelDecisions::Find(const tpx_flow& flow) {
  const absl::StatusOr<tpx_verdict> verdict = flows_.Lookup(flow);
  return verdict.ok() ? std::optional(*verdict) : std::nullopt;
}

bool KernelDecisions::IsGateway(const IpAddr& address) { return local_.Lookup(address.raw).ok(); }

uint32_t KernelDecisions::UdpEnded() {
  return std::atomic_ref(control_[0].udp_ended).load(std::memory_order_acquire);
}

void KernelDecisions::NoteOriginal(int upstream_fd, const Endpoint& original, const Endpoint& actual) {
  (void)sockets_.Update(upstream_fd, {.original = data::ToTarget(original), .actual = data::ToTarget(actual)})
      .ok();
}

}  // namespace tpx::app
