// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tpx/control/lifecycle.h"
#include "tpx/policy/config.h"
#include "tpx/sys/rtnl.h"

namespace tpx::control {

// Index into tpx_rule_hits by rule name.
using RuleCounters = std::map<std::string, uint32_t>;

// What is loaded, as later commands need to know it.
struct State {
  uint32_t abi_version = 0;
  uint64_t netns = 0;
  std::vector<sys::Family> families;  // that are steered
  Mode mode = Mode::kTcx;             // of new attachments
  policy::Steering steering;
  policy::Interfaces interfaces;
  policy::Local local;  // `enabled` also says whether it could be had
  std::vector<Device> devices;
  policy::XdpMode xdp = policy::XdpMode::kAuto;
  std::string xdp_idle{};  // why no device needs XDP; empty: the policy has something to drop there
  std::vector<EarlyDrop> early{};
  std::string build;  // bpf::BuildId() of the programs
  std::map<uint32_t, RuleCounters>
      rule_counters;  // by generation: the live one, while a reload runs the next too
  friend bool operator==(const State&, const State&) = default;
};

// kNotFound where there is none.
absl::StatusOr<State> ReadState(const Paths& paths);
absl::Status WriteState(const Paths& paths, const State& state);

// All rules and routes that the state calls for.
std::vector<sys::PolicyRule> RulesOf(const State& state, const Device& device);
std::vector<sys::PolicyRule> LocalRulesOf(const State& state);  // none where local flows are left alone
std::vector<sys::PolicyRule> AllRulesOf(const State& state);
std::vector<sys::LocalRoute> RoutesOf(const State& state);

}  // namespace tpx::control
