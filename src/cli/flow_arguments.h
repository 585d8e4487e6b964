// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "absl/status/statusor.h"
#include "env.h"
#include "tpx/app/explain.h"

namespace tpx::cli {

// PROTO SRC[:PORT] DST[:PORT] and the options about the packet. The error says
// what was expected.
absl::StatusOr<control::TrialFlow> ParseFlow(const FlowOptions& options);

}  // namespace tpx::cli
