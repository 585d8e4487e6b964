// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tpx/control/existing.h"
#include "tpx/control/lifecycle.h"

namespace tpx::app {

// What becomes of flows that a new policy judges otherwise.
enum class Existing {
  kKeep,   // nothing
  kDrain,  // they go on until they end or drain_timeout has passed, then as kAbort
  kAbort,  // they are reset or forgotten
};

using Reloading = std::function<absl::StatusOr<control::ReloadReport>()>;
using Tell = std::function<void(const std::string& line)>;

// Reloads and then does with the flows that are there what `existing` says; with
// kDrain it waits for them. An error after the reload says that the policy is live.
absl::Status ReloadWith(const control::Paths& paths, Existing existing, const Reloading& reload,
                        const Tell& tell);

// Which living flows the policy in the file would judge otherwise.
absl::StatusOr<control::FlowDifference> DiffFlows(const control::Paths& paths, const std::string& file,
                                                  const control::FlowVisitor& visit);

}  // namespace tpx::app
