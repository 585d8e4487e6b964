// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "absl/status/status.h"
#include "policy/classes.h"
#include "tpx/policy/compile.h"
#include "tpx/policy/config.h"

namespace tpx::policy {

// Fills in what the rules ask of the link. Fails with kResourceExhausted and the
// limit's name; where the classes overflow, the result is void.
absl::Status CompileLink(const Policy& policy, Classes& classes, CompiledPolicy& compiled);

// What the rules say of a device by its name, and by its VLAN, tells them apart
// with these: each name or pattern itself, and what else a pattern fits; each
// VLAN, and none.
std::vector<tpx_bits> TellingDevices(const Policy& policy);

}  // namespace tpx::policy
