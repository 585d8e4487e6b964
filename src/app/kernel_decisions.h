// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "tpx/bpf/map.h"
#include "tpx/bpf/shared_array.h"
#include "tpx/data/decision_source.h"
#include "tpx_abi.h"
#include "tpx_local_flow.h"

namespace tpx::app {

// The kernel side's memory of flows, for the workers.
class KernelDecisions final : public data::DecisionSource {
 public:
  static absl::StatusOr<KernelDecisions> Open(const std::string& pins);
  std::optional<tpx_verdict> Find(const tpx_flow& flow) override;
  bool IsGateway(const IpAddr& address) override;
  uint32_t UdpEnded() override;
  void NoteOriginal(int upstream_fd, const Endpoint& original, const Endpoint& actual) override;

 private:
  KernelDecisions(bpf::Map<tpx_flow, tpx_verdict> flows, bpf::Map<int, tpx_socket> sockets,
                  bpf::Map<tpx_addr, uint32_t> local, bpf::SharedArray<tpx_control> control)
      : flows_(std::move(flows)),
        sockets_(std::move(sockets)),
        local_(std::move(local)),
        control_(std::move(control)) {}
  bpf::Map<tpx_flow, tpx_verdict> flows_;
  bpf::Map<int, tpx_socket> sockets_;
  bpf::Map<tpx_addr, uint32_t> local_;
  bpf::SharedArray<tpx_control> control_;
};

}  // namespace tpx::app
