// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tpx/base/address.h"
#include "tpx/control/lifecycle.h"
#include "tpx/policy/config.h"
#include "tpx_abi.h"

// The flows that are there now, and what another policy would make of them.
// Known are the UDP flows of tpx_flows and the TCP sessions of the proxy; of
// direct TCP connections nobody on the gateway knows.
namespace tpx::control {

// What a policy makes of a flow.
struct Treatment {
  tpx_action action = TPX_ACTION_BYPASS;
  // What the server sees, of a proxied flow; nothing where it is not known any more.
  std::optional<tpx_source_mode> source{};
  tpx_mapping mapping = TPX_MAPPING_ENDPOINT_INDEPENDENT;  // of proxied UDP
  tpx_forward forward = TPX_FORWARD_STACK;                 // of UDP
  Endpoint target{};                                       // of a redirect
  std::string rule{};                                      // that says so; empty: one of an earlier policy

  bool is_proxied() const { return action == TPX_ACTION_PROXY || action == TPX_ACTION_REDIRECT; }
};

// A flow that another policy judges otherwise: the rule's name alone makes no difference.
struct ChangedFlow {
  tpx_flow flow{};
  std::string device{};  // that it came in by; empty: not known
  Treatment now, then;
  // A rule that asks for the link might decide otherwise, and the link is not known any more.
  bool uncertain = false;
};

struct FlowCount {
  size_t seen = 0;
  size_t changed = 0;  // the uncertain ones too
  size_t uncertain = 0;
};
struct FlowCounts {
  FlowCount tcp, udp;
};

// By a candidate, as a reload would publish it. Each changed flow is shown once
// and not kept. Changes nothing.
struct FlowDifference {
  FlowCounts counts;
  uint32_t generation = 0;  // that is loaded
};
using FlowVisitor = std::function<void(const ChangedFlow& changed)>;
absl::StatusOr<FlowDifference> CompareFlows(const Paths& paths, const policy::Config& candidate,
                                            const FlowVisitor& visit);

// What a reload means for the flows that are there: made before it, asked after it.
class ExistingFlows {
 public:
  static absl::StatusOr<ExistingFlows> Before(const Paths& paths);
  ExistingFlows(ExistingFlows&& other) noexcept;
  ExistingFlows& operator=(ExistingFlows&& other) noexcept;
  ~ExistingFlows();

  // Finds the flows that the policy which is live now judges otherwise. Flows
  // that began under it are not among them, nor the uncertain ones.
  absl::StatusOr<FlowCounts> FindChanged();

  // Those of them that are still there.
  struct Number {
    size_t tcp = 0, udp = 0;
    bool none() const { return tcp == 0 && udp == 0; }
  };
  absl::StatusOr<Number> Left() const;

  // Ends those that are still there: both ends of a TCP session get RST; a UDP
  // flow is forgotten, its next datagram is judged anew, and the proxy does not
  // answer any more. Says how many there were.
  absl::StatusOr<Number> Abort();

 private:
  struct Parts;
  explicit ExistingFlows(std::unique_ptr<Parts> parts);
  std::unique_ptr<Parts> parts_;
};

}  // namespace tpx::control
