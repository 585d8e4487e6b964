// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "attach.h"
#include "state.h"

namespace tpx::control {

// Whether a device of the state is still that device: same index, same name.
// One that changed its name is another, because rules go by name.
bool SameDevice(const Device& a, const Device& b);

// Attaches to the devices of `wanted` that the state lacks and adds them to it,
// on disk before it returns. After an error those are detached again.
absl::Status AddDevices(Site& site, State& state, const std::vector<Device>& wanted,
                        std::vector<std::string>& lines);

// Detaches from the devices of the state that are not in `wanted`, and removes
// them from it.
absl::Status DropDevices(Site& site, State& state, const std::vector<Device>& wanted,
                         std::vector<std::string>& lines);

}  // namespace tpx::control
