// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "state.h"
#include "tpx/bpf/map.h"
#include "tpx/policy/compile.h"
#include "tpx_abi.h"

// The order is fill, clear, switch, drop. A packet sees the old or the new
// generation, never a mix.
//
// Hits of rules are exact across a switch, because nothing is copied: a rule's
// name has one counter for as long as successive generations have a rule of
// that name, and both generations count there. A new name gets a counter that
// the live generation does not use, cleared before the switch; so whatever
// fails or is killed on the way, the live rules' counters are untouched.
namespace tpx::control {

absl::StatusOr<uint32_t> LiveGeneration(const std::string& pins);

using TablesMap = bpf::Map<uint32_t, tpx_tables>;

// Puts the compiled policy into the slot of `generation`, which must not be
// the live one's slot. Returns the inner map, for SwitchGeneration.
absl::StatusOr<TablesMap> FillGeneration(const std::string& pins, policy::CompiledPolicy& compiled,
                                         uint32_t generation);

// Puts entries of devices into a generation that is filled, over those that are there.
absl::Status UpdateAttributes(const std::string& pins, uint32_t generation,
                              const std::vector<policy::AttributeEntry>& entries);

// Gives every rule of the policy its counter, in its compiled tables too.
// `live` are the counters of the live generation.
RuleCounters AssignCounters(const RuleCounters& live, const policy::Policy& policy, tpx_tables& tables);

// Sets those counters to 0 that are not among the live ones, and forgets the sources that were counted there.
// After FillGeneration, which waits for packets that still use a generation before.
absl::Status ClearCounters(const std::string& pins, const RuleCounters& live, const RuleCounters& counters);

// One store makes the generation the live one; returns when no packet uses
// another any more.
absl::Status SwitchGeneration(const std::string& pins, uint32_t generation, const TablesMap& tables);

// Frees a generation that is not live.
absl::Status DropGeneration(const std::string& pins, uint32_t generation);

}  // namespace tpx::control
