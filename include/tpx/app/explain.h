// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tpx/control/explain.h"
#include "tpx/observe/snapshot.h"

namespace tpx::app {

// What becomes of a flow, in facts and in words.
struct FlowExplained {
  control::Explanation facts;
  observe::ReasonName reason;
  const char* verdict;  // "proxy", "redirect", "direct", "drop", "reject"
  std::string outcome;  // what that means here
  const char* action;   // of the rule; empty where none decided
  std::vector<std::string> steps;
  std::vector<std::string> notes;
};

// A process as it is named on a command line; what is empty is 0, the root cgroup, or no program.
struct OwnerNames {
  std::string user, group;  // names or numbers
  std::string cgroup, program;
};
// kNotFound where there is no such user or group.
absl::StatusOr<control::TrialOwner> FindOwner(const OwnerNames& names);

// By the candidate in a file, or, where the name is empty, by what is loaded.
absl::StatusOr<FlowExplained> ExplainFlow(const control::Paths& paths, const std::string& candidate_file,
                                          const control::TrialFlow& flow);

}  // namespace tpx::app
