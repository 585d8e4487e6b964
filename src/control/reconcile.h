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

// What a change of the devices starts from.
struct Attachments {
  std::vector<Device> devices;   // of the state
  std::vector<Device> attached;  // those of them whose programs run
};
absl::StatusOr<Attachments> AttachmentsOf(const Site& site, const State& state);

// Sees to it that the devices of `wanted` are in the state and attached. A device
// that changed its name or its role has its program replaced in place; the state
// has both until DropDevices. After an error all is as before.
absl::Status AddDevices(Site& site, State& state, const Attachments& before,
                        const std::vector<Device>& wanted, std::vector<std::string>& lines);

// Undoes AddDevices as far as it goes.
void PutBackDevices(Site& site, State& state, const Attachments& before);

// Detaches from the devices of the state that are not in `wanted`, and removes
// them from it.
absl::Status DropDevices(Site& site, State& state, const std::vector<Device>& wanted,
                         std::vector<std::string>& lines);

// Adds rules and routes of the state that somebody else removed. The kernel
// drops the routes while lo is down, for example.
absl::Status RepairRouting(Site& site, const State& state, std::vector<std::string>& lines);

}  // namespace tpx::control
