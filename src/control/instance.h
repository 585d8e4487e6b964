// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tpx/control/lifecycle.h"
#include "tpx/sys/file_lock.h"

namespace tpx::control {

// Files of the state directory.
std::string JournalPath(const Paths& paths);
std::string StatePath(const Paths& paths);
std::string ConfigTextPath(const Paths& paths);
std::string ConfigJsonPath(const Paths& paths);
std::string LockPath(const Paths& paths);
std::string RunLockPath(const Paths& paths);    // held by the process that serves
std::string TraceLockPath(const Paths& paths);  // held by the one that listens to a trace

// Pins of an attachment inside a pin directory.
std::string DeviceLinkPin(const std::string& dir, const Device& device);
std::string XdpLinkPin(const std::string& dir, int ifindex);
std::string SkLookupLinkPin(const std::string& dir);
std::string ProgramPin(const std::string& dir, Role role);
std::string XdpProgramPin(const std::string& dir);
std::string SkLookupProgramPin(const std::string& dir);
// Of a program for local flows, by its name.
std::string LocalLinkPin(const std::string& dir, std::string_view program);

// The lock of all changes; waits for a while.
absl::StatusOr<sys::FileLock> LockInstance(const Paths& paths,
                                           std::chrono::milliseconds timeout = kLockTimeout);

// "lan eth1 (tcx)"
std::string Describe(const Device& device);

}  // namespace tpx::control
