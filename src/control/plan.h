// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "state.h"
#include "tpx/control/lifecycle.h"
#include "tpx/policy/compile.h"
#include "tpx/policy/config.h"
#include "tpx/sys/rtnl.h"

namespace tpx::control {

// A configuration checked against this machine; nothing was changed yet.
struct Plan {
  State state;  // devices, families and mode decided; rule names without a generation
  policy::CompiledPolicy compiled;
  std::vector<std::string> notes;
};
absl::StatusOr<Plan> MakePlan(const policy::Config& config, sys::Rtnl& rtnl);

}  // namespace tpx::control
