// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "absl/status/statusor.h"
#include "tpx/base/unique_fd.h"

namespace tpx::app {

// Blocks SIGTERM and SIGINT for the calling thread and those it will start,
// ignores SIGPIPE and SIGHUP, and returns a descriptor that is readable when one of
// the former came.
absl::StatusOr<UniqueFd> TakeOverSignals();

// How many were queued since the last call; never waits.
int DrainSignals(int fd);

}  // namespace tpx::app
