// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tpx/app/source.h"
#include "tpx/control/lifecycle.h"

namespace tpx::app {

// The paths of an instance: pins in /sys/fs/bpf/<name>, state in /run/<name>.
control::Paths InstancePaths(const std::string& name);

// Serves until SIGTERM or SIGINT: loads when nothing is loaded, starts the
// workers, watches devices and addresses, drains. Blocks those signals in the
// whole process. Returns OK after an orderly end, an error when it could not
// start or when the kernel side or every LAN device was taken away.
absl::Status RunGateway(const control::Paths& paths, const Source& source);

}  // namespace tpx::app
