// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tpx/bpf/map.h"
#include "tpx/policy/compile.h"
#include "tpx_abi.h"

// The order is fill, carry over, switch, drop. A packet sees the old or the
// new generation, never a mix.
namespace tpx::control {

absl::StatusOr<uint32_t> LiveGeneration(const std::string& pins);

using TablesMap = bpf::Map<uint32_t, tpx_tables>;

// Puts the compiled policy into the slot of `generation`, which must not be
// the live one's slot. Returns the inner map, for SwitchGeneration.
absl::StatusOr<TablesMap> FillGeneration(const std::string& pins, policy::CompiledPolicy& compiled,
                                         uint32_t generation);

// Sets the hit counters of a slot to those that rules of the same names have
// in the other, 0 for new names. What the old generation counts between this
// and the switch is not carried over.
absl::Status CarryRuleHits(const std::string& pins, const std::vector<std::string>& old_names,
                           uint32_t generation, const std::vector<std::string>& names);

// One store makes the generation the live one; returns when no packet uses
// another any more.
absl::Status SwitchGeneration(const std::string& pins, uint32_t generation, const TablesMap& tables);

// Frees a generation that is not live.
absl::Status DropGeneration(const std::string& pins, uint32_t generation);

}  // namespace tpx::control
