// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "state.h"
#include "tpx/control/lifecycle.h"
#include "tpx/sys/file_lock.h"

namespace tpx::control {

// What is loaded, for who wants to change it: nobody else does until this goes.
struct Loaded {
  sys::FileLock lock;
  State state;
  std::vector<std::string> notes;  // what to tell the user of
};

// kFailedPrecondition where nothing is loaded, and unless this build can change
// what is, from here.
absl::StatusOr<Loaded> OpenLoaded(const Paths& paths);

// The same for who only reads: nothing where nothing is loaded. Others may change
// it at any time.
absl::StatusOr<std::optional<State>> ReadLoaded(const Paths& paths);

}  // namespace tpx::control
