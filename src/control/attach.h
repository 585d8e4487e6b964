// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "journal.h"
#include "state.h"
#include "tpx/control/lifecycle.h"
#include "tpx/sys/rtnl.h"

namespace tpx::control {

// What changes of attachments need. All borrowed.
struct Site {
  const Paths& paths;
  std::string pins;  // the staging directory or the final one
  sys::Rtnl& rtnl;
  Journal& journal;
};

// What exists already is fine in these two.
absl::Status AddRules(Site& site, const State& state, const Device& device);
absl::Status AddRoutes(Site& site, const State& state);

// Makes the program of the device's role the one that runs there. A program of
// ours that runs there already, for whichever role and name of the device, is
// replaced in place: a packet meets the one or the other, never both or none.
// Sets device.priority where a filter is used.
absl::Status AttachProgram(Site& site, Device& device);
absl::Status AttachSkLookup(Site& site);

// Replaces the program of an attachment in one step. A device that is gone, or
// whose program somebody took away, is left alone.
absl::Status ReplaceProgram(Site& site, const Device& device, int program_fd);
absl::Status ReplaceSkLookup(Site& site, int program_fd);

// Detaches the program; what is gone already is fine.
absl::Status DetachProgram(Site& site, const Device& device);
// Detaches the program and deletes the rules, unless another device of the state
// has them: the same one by another name or role.
absl::Status RemoveDevice(Site& site, const State& state, const Device& device);

// Whether one attachment serves both, which differ in their names at most; with
// a filter, also in their roles.
bool SharePlace(const Device& a, const Device& b);

// The id of the program that is attached to the device, 0 for none.
absl::StatusOr<uint32_t> FindProgram(const std::string& pins, const Device& device);
uint32_t AttachedProgram(const std::string& pins, const Device& device);  // 0 also where nobody can tell

}  // namespace tpx::control
