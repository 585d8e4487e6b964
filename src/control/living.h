// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "judge.h"
#include "tpx/control/existing.h"
#include "tpx/policy/config.h"
#include "tpx/sys/sock_diag.h"
#include "tpx_abi.h"

namespace tpx::control {

struct LivingFlow {
  tpx_flow flow{};
  // What tpx_flows has of it: of UDP always, of TCP where it was redirected.
  std::optional<tpx_verdict> known{};
  sys::TcpConnection connection{};  // of TCP: the client's side
};

// Flows of the gateway itself are not among them. At most TPX_QUESTIONS at a
// time; an error of `visit` ends it.
using LivingVisitor = std::function<absl::Status(std::span<const LivingFlow> flows)>;
absl::Status VisitLiving(const std::string& pins, const policy::Steering& steering,
                         const LivingVisitor& visit);

// When a UDP flow of tpx_flows is one no more.
class UdpAge {
 public:
  static absl::StatusOr<UdpAge> Read(const std::string& pins);
  bool IsAlive(const tpx_verdict& verdict) const { return now_s_ - int64_t{verdict.seen_s} <= allowed_s_; }

 private:
  int64_t now_s_ = 0, allowed_s_ = 0;
};

// Those of tpx_flows that a rule decided and that were not silent for too long.
absl::StatusOr<std::vector<LivingFlow>> LivingUdp(const std::string& pins);
absl::StatusOr<std::vector<sys::TcpConnection>> ClientConnections(const policy::Steering& steering);

// Whether the second one is no change for a flow that the first one was right for.
bool SameTreatment(uint8_t proto, const Treatment& now, const Treatment& then);

Treatment TreatmentOf(const tpx_verdict& verdict, std::string rule);

// A flow, and what the policy that began it and another one make of it.
// `by_before`: the flow began under the former, as far as anybody knows.
class Comparison {
 public:
  Comparison(Judge& before, Judge& after) : before_(before), after_(after) {}
  using Sink = std::function<void(const LivingFlow& flow, const ChangedFlow& changed)>;
  using BeganBefore = std::function<bool(const LivingFlow& flow)>;
  absl::Status Add(std::span<const LivingFlow> flows, const BeganBefore& began_before, const Sink& sink);
  const FlowCounts& counts() const { return counts_; }

 private:
  Judge& before_;
  Judge& after_;
  FlowCounts counts_;
};

}  // namespace tpx::control
