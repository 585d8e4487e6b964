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

// What is loaded, as later commands need to know it.
struct State {
  uint32_t abi_version = 0;
  uint64_t netns = 0;
  std::vector<sys::Family> families;  // that are steered
  Mode mode = Mode::kTcx;             // of new attachments
  policy::Steering steering;
  policy::Interfaces interfaces;
  std::vector<Device> devices;
  std::map<uint32_t, std::vector<std::string>> rule_names;  // by generation
  friend bool operator==(const State&, const State&) = default;
};

// kNotFound where there is none.
absl::StatusOr<State> ReadState(const Paths& paths);
absl::Status WriteState(const Paths& paths, const State& state);

// All rules and routes that the state calls for.
std::vector<sys::PolicyRule> RulesOf(const State& state, const Device& device);
std::vector<sys::LocalRoute> RoutesOf(const State& state);

std::vector<std::string> RuleNames(const policy::Policy& policy);

}  // namespace tpx::control
