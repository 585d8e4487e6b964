// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "tpx/bpf/map.h"
#include "tpx/data/decision_source.h"
#include "tpx_abi.h"

namespace tpx::app {

// The kernel side's memory of flows, for the workers.
class KernelDecisions final : public data::DecisionSource {
 public:
  static absl::StatusOr<KernelDecisions> Open(const std::string& pins);
  std::optional<tpx_verdict> Find(const tpx_flow& flow) override;
  void NoteOriginal(int upstream_fd, const Endpoint& original, const Endpoint& actual) override;

 private:
  KernelDecisions(bpf::Map<tpx_flow, tpx_verdict> flows, bpf::Map<int, tpx_socket> sockets)
      : flows_(std::move(flows)), sockets_(std::move(sockets)) {}
  bpf::Map<tpx_flow, tpx_verdict> flows_;
  bpf::Map<int, tpx_socket> sockets_;
};

}  // namespace tpx::app
