// SPDX-License-Identifier: Apache-2.0
#include "instance.h"

#include <chrono>

#include "tpx/base/strings.h"

namespace tpx::control {
namespace {}  // namespace

std::string_view RoleName(Role role) { return role == Role::kLan ? "lan" : "wan"; }
std::string_view ModeName(Mode mode) { return mode == Mode::kTcx ? "tcx" : "clsact"; }

std::string_view XdpPlaceName(XdpPlace place) {
  return place == XdpPlace::kNone ? "none" : place == XdpPlace::kNative ? "native" : "generic";
}

std::string JournalPath(const Paths& paths) { return paths.state + "/journal"; }
std::string StatePath(const Paths& paths) { return paths.state + "/state.json"; }
std::string ConfigTextPath(const Paths& paths) { return paths.state + "/config.yaml"; }
std::string ConfigJsonPath(const Paths& paths) { return paths.state + "/config.json"; }
std::string LockPath(const Paths& paths) { return paths.state + "/lock"; }
std::string RunLockPath(const Paths& paths) { return paths.state + "/run.lock"; }
std::string TraceLockPath(const Paths& paths) { return paths.state + "/trace.lock"; }

std::string DeviceLinkPin(const std::string& dir, const Device& device) {
  return StrCat(dir, "/link_", RoleName(device.role), "_", device.ifindex);
}
std::string XdpLinkPin(const std::string& dir, int ifindex) { return StrCat(dir, "/link_xdp_", ifindex); }
std::string SkLookupLinkPin(const std::string& dir) { return dir + "/link_sk_lookup"; }
std::string ProgramPin(const std::string& dir, Role role) { return StrCat(dir, "/tpx_", RoleName(role)); }
std::string XdpProgramPin(const std::string& dir) { return dir + "/tpx_xdp_early"; }
std::string SkLookupProgramPin(const std::string& dir) { return dir + "/tpx_sk_lookup"; }

std::string LocalLinkPin(const std::string& dir, std::string_view program) {
  return StrCat(dir, "/link_", program);
}

absl::StatusOr<sys::FileLock> LockInstance(const Paths& paths, std::chrono::milliseconds timeout) {
  return sys::FileLock::Acquire(LockPath(paths), timeout);
}

std::string Describe(const Device& device) {
  return StrCat(RoleName(device.role), " device ", device.name, " (", ModeName(device.mode), ")");
}

}  // namespace tpx::control
