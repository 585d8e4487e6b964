// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include "absl/status/statusor.h"
#include "tpx/policy/config.h"
#include "tpx/sys/rtnl.h"

namespace tpx::control {

// Destroys what the proxy's finished connections left in the socket table under
// addresses that are not this machine's, and says how many. Those in TIME_WAIT
// would stay for a minute and, once no program steers, swallow what a new
// connection with the same tuple sends. A socket is the proxy's if it has one of
// its two marks.
absl::StatusOr<size_t> DestroyLeftoverSockets(const policy::Steering& steering, sys::Rtnl& rtnl);

}  // namespace tpx::control
