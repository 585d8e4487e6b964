// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

#include "absl/status/status.h"

namespace tpx::sys {

// Tells the service manager a state such as "READY=1" (sd_notify(3)). Does
// nothing when NOTIFY_SOCKET is not set.
absl::Status NotifyServiceManager(std::string_view state);

}  // namespace tpx::sys
