// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "policy/classes.h"
#include "tpx/policy/compile.h"
#include "tpx/policy/config.h"

namespace tpx::policy {

// What rules may name besides devices, all kinds together.
inline constexpr size_t kMaxAttributeValues = TPX_MAX_ATTRIBUTES - TPX_MAX_DEVICES;

// What rules say of one attribute of the owner.
struct OwnerValues {
  tpx_attribute attribute;
  tpx_bits others{};                     // the rules that accept what none names
  std::vector<AttributeEntry> values{};  // what some rule names, and there is
  std::vector<tpx_bits> missing{};       // the same for what there is not
};

// Fails with kResourceExhausted where there are more than kMaxAttributeValues.
absl::StatusOr<std::vector<OwnerValues>> OwnerValuesOf(const Policy& policy);

// Fills in what the rules ask of the owner. Fails as OwnerValuesOf does; where
// the classes overflow, the result is void.
absl::Status CompileOwner(const Policy& policy, Classes& classes, CompiledPolicy& compiled);

absl::Status TooManyAttributes();

}  // namespace tpx::policy
