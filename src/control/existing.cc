// SPDX-License-Identifier: Apache-2.0
#include "tpx/control/existing.h"

#include <netinet/in.h>

#include <algorithm>
#include <atomic>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "judge.h"
#include "living.h"
#include "loaded.h"
#include "plan.h"
#include "tpx/base/status.h"
#include "tpx/bpf/maps.h"
#include "tpx/sys/rtnl.h"
#include "tpx/sys/sock_diag.h"

namespace tpx::control {
namespace {

using bpf::Access;
using Cookies = absl::flat_hash_set<uint64_t>;

absl::StatusOr<State> StateOfLoaded(const Paths& paths) {
  TPX_ASSIGN_OR_RETURN(std::optional<State> state, ReadLoaded(paths));
  if (!state) return absl::FailedPreconditionError("nothing is loaded; run 'tpx-bpf load'");
  return *std::move(state);
}

// Whether the flow is there as it was: not if its next datagram was judged anew.
bool IsAsBefore(const tpx_verdict& was, const tpx_verdict& is) {
  return SameTreatment(IPPROTO_UDP, TreatmentOf(was, ""), TreatmentOf(is, ""));
}

}  // namespace

absl::StatusOr<FlowDifference> CompareFlows(const Paths& paths, const policy::Config& candidate,
                                            const FlowVisitor& visit) {
  TPX_ASSIGN_OR_RETURN(const State state, StateOfLoaded(paths));
  TPX_ASSIGN_OR_RETURN(sys::Rtnl rtnl, sys::Rtnl::Open());
  TPX_ASSIGN_OR_RETURN(Plan plan, MakePlan(candidate, rtnl));
  TPX_ASSIGN_OR_RETURN(Judge live, Judge::OfLive(paths, state));
  TPX_ASSIGN_OR_RETURN(Judge next, Judge::OfCandidate(plan.compiled, candidate.policy));
  Comparison comparison(live, next);
  TPX_RETURN_IF_ERROR(VisitLiving(paths.pins, state.steering, [&](std::span<const LivingFlow> flows) {
    return comparison.Add(
        flows, [](const LivingFlow&) { return true; },
        [&](const LivingFlow&, const ChangedFlow& changed) { visit(changed); });
  }));
  return FlowDifference{.counts = comparison.counts(), .generation = live.generation()};
}

struct ExistingFlows::Parts {
  Paths paths;
  policy::Steering steering;
  Judge before;
  Cookies began_before;  // the TCP sessions that were there before the reload
  std::vector<sys::TcpConnection> tcp{};
  std::vector<LivingFlow> udp{};
};

ExistingFlows::ExistingFlows(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
ExistingFlows::ExistingFlows(ExistingFlows&& other) noexcept = default;
ExistingFlows& ExistingFlows::operator=(ExistingFlows&& other) noexcept = default;
ExistingFlows::~ExistingFlows() = default;

absl::StatusOr<ExistingFlows> ExistingFlows::Before(const Paths& paths) {
  TPX_ASSIGN_OR_RETURN(const State state, StateOfLoaded(paths));
  TPX_ASSIGN_OR_RETURN(Judge before, Judge::OfLive(paths, state));
  TPX_ASSIGN_OR_RETURN(const auto connections, ClientConnections(state.steering));
  Cookies cookies;
  for (const sys::TcpConnection& connection : connections) cookies.insert(connection.cookie());
  return ExistingFlows(std::make_unique<Parts>(Parts{.paths = paths,
                                                     .steering = state.steering,
                                                     .before = std::move(before),
                                                     .began_before = std::move(cookies)}));
}

absl::StatusOr<FlowCounts> ExistingFlows::FindChanged() {
  Parts& p = *parts_;
  TPX_ASSIGN_OR_RETURN(const State state, StateOfLoaded(p.paths));
  TPX_ASSIGN_OR_RETURN(Judge after, Judge::OfLive(p.paths, state));
  Comparison comparison(p.before, after);
  auto began_before = [&](const LivingFlow& living) {
    return p.began_before.contains(living.connection.cookie());
  };
  TPX_RETURN_IF_ERROR(VisitLiving(p.paths.pins, p.steering, [&](std::span<const LivingFlow> flows) {
    return comparison.Add(flows, began_before, [&](const LivingFlow& living, const ChangedFlow& changed) {
      if (changed.uncertain) return;
      if (living.flow.proto == IPPROTO_TCP) return p.tcp.push_back(living.connection);
      p.udp.push_back(living);
    });
  }));
  return comparison.counts();
}

absl::StatusOr<ExistingFlows::Number> ExistingFlows::Left() const {
  const Parts& p = *parts_;
  Number left;
  if (!p.tcp.empty()) {
    TPX_ASSIGN_OR_RETURN(const auto connections, ClientConnections(p.steering));
    Cookies there;
    for (const sys::TcpConnection& connection : connections) there.insert(connection.cookie());
    left.tcp = static_cast<size_t>(std::count_if(p.tcp.begin(), p.tcp.end(), [&](const auto& connection) {
      return there.contains(connection.cookie());
    }));
  }
  if (p.udp.empty()) return left;
  TPX_ASSIGN_OR_RETURN(const UdpAge age, UdpAge::Read(p.paths.pins));
  TPX_ASSIGN_OR_RETURN(const auto flows, bpf::OpenFlows(p.paths.pins, Access::kReadOnly));
  for (const LivingFlow& living : p.udp) {
    const absl::StatusOr<tpx_verdict> now = flows.Lookup(living.flow);
    left.udp += now.ok() && age.IsAlive(*now) && IsAsBefore(*living.known, *now) ? 1 : 0;
  }
  return left;
}

absl::StatusOr<ExistingFlows::Number> ExistingFlows::Abort() {
  Parts& p = *parts_;
  Number ended;
  TPX_ASSIGN_OR_RETURN(const auto flows, bpf::OpenFlows(p.paths.pins, Access::kReadWrite));
  for (const LivingFlow& living : p.udp) {
    const absl::StatusOr<tpx_verdict> now = flows.Lookup(living.flow);
    if (!now.ok() || !IsAsBefore(*living.known, *now)) continue;
    const absl::Status status = flows.Delete(living.flow);
    if (!status.ok() && !absl::IsNotFound(status)) return status;
    ended.udp += status.ok() ? 1 : 0;
  }
  TPX_ASSIGN_OR_RETURN(auto control, bpf::OpenControl(p.paths.pins, Access::kReadWrite));
  // Also for flows that were judged anew by themselves: their sessions may still answer.
  if (!p.udp.empty()) std::atomic_ref(control[0].udp_ended).fetch_add(1, std::memory_order_acq_rel);
  TPX_ASSIGN_OR_RETURN(sys::SockDiag diag, sys::SockDiag::Open());
  for (const sys::TcpConnection& connection : p.tcp) {
    const absl::Status status = diag.Destroy(connection);
    if (!status.ok() && !absl::IsNotFound(status)) return status;
    ended.tcp += status.ok() ? 1 : 0;
  }
  return ended;
}

}  // namespace tpx::control
