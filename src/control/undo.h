// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "tpx/control/lifecycle.h"

namespace tpx::control {

struct Undone {
  bool found = false;  // anything at all
  std::vector<std::string> lines;
};

// Removes what a load made, however far it came, in reverse order: after the
// journal, and by owner tags. Goes on after an error and returns the first; the
// journal then stays, so that it can be called again. The caller holds the
// lock.
absl::Status Undo(const Paths& paths, const Checkpoint& checkpoint, Undone& undone);

// Removes the state directory with the lock that the caller holds. It stays,
// with the lock of the serving process alone, while such a process runs.
void RemoveStateDir(const Paths& paths);

}  // namespace tpx::control
