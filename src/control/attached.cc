// SPDX-License-Identifier: Apache-2.0
#include "tpx/control/attached.h"

#include <net/if.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <optional>
#include <utility>

#include "attach.h"
#include "devices.h"
#include "instance.h"
#include "journal.h"
#include "local_addresses.h"
#include "publish.h"
#include "reconcile.h"
#include "state.h"
#include "tpx/base/clock.h"
#include "tpx/base/status.h"
#include "tpx/base/strings.h"
#include "tpx/bpf/maps.h"
#include "tpx/bpf/pin_dir.h"
#include "xdp.h"

namespace tpx::control {
namespace {

absl::Status Detached() { return absl::FailedPreconditionError("detached by another process"); }

std::string ControlPin(const Paths& paths) { return paths.pins + "/tpx_control"; }

std::optional<ino_t> Inode(const std::string& path) {
  struct stat st {};
  if (stat(path.c_str(), &st) != 0) return std::nullopt;
  return st.st_ino;
}

// What the live rules say of devices that are new, or have a new name, before packets come by them.
absl::Status UpdateDeviceRules(const Paths& paths, const State& state, const std::vector<Device>& wanted,
                               const std::vector<sys::LinkInfo>& links) {
  const bool changed = std::any_of(wanted.begin(), wanted.end(), [&](const Device& device) {
    return std::none_of(state.devices.begin(), state.devices.end(),
                        [&](const Device& known) { return SameDevice(known, device); });
  });
  if (!changed) return absl::OkStatus();
  TPX_ASSIGN_OR_RETURN(const StoredConfig loaded, LoadedConfig(paths));
  TPX_ASSIGN_OR_RETURN(const uint32_t live, LiveGeneration(paths.pins));
  return UpdateAttributes(paths.pins, live,
                          policy::DeviceEntries(loaded.config.policy, NamesOf(wanted, links)));
}

}  // namespace

absl::StatusOr<Attached> Attached::Open(const Paths& paths) {
  const std::optional<ino_t> inode = Inode(ControlPin(paths));
  if (!inode.has_value()) return absl::FailedPreconditionError("nothing is loaded; run 'tpx-bpf load'");
  TPX_ASSIGN_OR_RETURN(auto control, bpf::OpenControl(paths.pins, bpf::Access::kReadWrite));
  TPX_ASSIGN_OR_RETURN(auto workers, bpf::OpenWorkers(paths.pins, bpf::Access::kReadWrite));
  TPX_ASSIGN_OR_RETURN(auto listeners, bpf::OpenListeners(paths.pins, bpf::Access::kReadWrite));
  return Attached(paths, *inode, std::move(control), std::move(workers), std::move(listeners));
}

absl::Status Attached::SetListener(uint32_t worker, tpx_listener kind, int listener_fd) {
  const uint32_t index = TPX_LISTENER(worker, kind);
  if (index >= cookies_.size()) return absl::InvalidArgumentError(StrCat("there is no worker ", worker));
  uint64_t cookie = 0;
  socklen_t size = sizeof(cookie);
  if (getsockopt(listener_fd, SOL_SOCKET, SO_COOKIE, &cookie, &size) != 0) {
    return ErrnoStatus(errno, "getsockopt SO_COOKIE");
  }
  TPX_RETURN_IF_ERROR(listeners_.Update(index, static_cast<uint64_t>(listener_fd)));
  cookies_[index] = cookie;
  return absl::OkStatus();
}

void Attached::SetProxy(const Serving& serving) {
  std::atomic_ref(control_[0].udp_flow_s).store(serving.udp_flow_s, std::memory_order_release);
  std::atomic_ref(control_[0].listen_port).store(serving.port, std::memory_order_release);
  std::atomic_ref(control_[0].n_workers).store(serving.workers, std::memory_order_release);
}

void Attached::SetWatchers(uint32_t watchers) {
  const auto now_s = static_cast<uint32_t>(MonotonicNs() / 1'000'000'000);
  std::atomic_ref(control_[0].watchers).store(watchers, std::memory_order_release);
  std::atomic_ref(control_[0].watchers_s).store(now_s, std::memory_order_release);
}

void Attached::RemoveListeners() {
  bool replaced = false;
  for (uint32_t index = 0; index < cookies_.size(); ++index) {
    const uint64_t cookie = std::exchange(cookies_[index], 0);
    if (cookie == 0) continue;
    const absl::StatusOr<uint64_t> current = listeners_.Lookup(index);
    if (!current.ok()) continue;  // went when the socket was closed
    // An entry that fails to go leaves with its socket.
    if (*current == cookie) (void)listeners_.Delete(index).ok();
    replaced |= *current != cookie;
  }
  // The flows that are remembered keep their time.
  if (!replaced) SetProxy({.workers = 0, .port = 0, .udp_flow_s = control_[0].udp_flow_s});
}

absl::Status Attached::RefreshLocalAddresses(std::chrono::milliseconds lock_timeout) {
  if (!StillPinned()) return Detached();  // taking the lock would make the directory again
  TPX_ASSIGN_OR_RETURN(sys::FileLock lock, LockInstance(paths_, lock_timeout));
  if (!StillPinned()) return Detached();
  TPX_ASSIGN_OR_RETURN(sys::Rtnl rtnl, sys::Rtnl::Open());
  return SyncLocalAddresses(paths_.pins, rtnl);
}

absl::StatusOr<std::vector<std::string>> Attached::ReconcileDevices(std::chrono::milliseconds lock_timeout) {
  if (!StillPinned()) return Detached();  // taking the lock would make the directory again
  TPX_ASSIGN_OR_RETURN(sys::FileLock lock, LockInstance(paths_, lock_timeout));
  if (!StillPinned()) return Detached();
  TPX_ASSIGN_OR_RETURN(State state, ReadState(paths_));
  TPX_ASSIGN_OR_RETURN(sys::Rtnl rtnl, sys::Rtnl::Open());
  TPX_ASSIGN_OR_RETURN(Journal journal, Journal::Open(paths_, nullptr));
  TPX_ASSIGN_OR_RETURN(const std::vector<sys::LinkInfo> links, rtnl.ListLinks());
  Resolution wanted = ResolveDevices(state.interfaces, links);
  std::vector<std::string> lines;
  for (const std::string& name : wanted.conflicts) {
    lines.push_back(StrCat("interface ", Quote(name), " is both LAN and WAN, not attaching to it"));
  }
  Site site{paths_, paths_.pins, rtnl, journal};
  TPX_ASSIGN_OR_RETURN(const Attachments before, AttachmentsOf(site, state));
  TPX_RETURN_IF_ERROR(UpdateDeviceRules(paths_, state, wanted.devices, links));
  const absl::Status added = AddDevices(site, state, before, wanted.devices, lines);
  TPX_RETURN_IF_ERROR(DropDevices(site, state, wanted.devices, lines));
  TPX_RETURN_IF_ERROR(added);
  TPX_RETURN_IF_ERROR(RepairRouting(site, state, lines));
  const std::vector<EarlyDrop> early = state.early;
  TPX_RETURN_IF_ERROR(SyncXdp(site, state, XdpAttempts::kNew, lines));
  if (state.early != early) TPX_RETURN_IF_ERROR(WriteState(paths_, state));
  return lines;
}

bool Attached::StillPinned() const { return Inode(ControlPin(paths_)) == pin_inode_; }

bool Attached::HasLanDevice() const {
  const absl::StatusOr<State> state = ReadState(paths_);
  // Without a descriptor to look with nobody can tell.
  if (!state.ok()) return !absl::IsNotFound(state.status());
  return std::any_of(state->devices.begin(), state->devices.end(), [](const Device& device) {
    char name[IF_NAMESIZE];
    return device.role == Role::kLan &&
           (if_indextoname(static_cast<unsigned>(device.ifindex), name) != nullptr || errno != ENXIO);
  });
}

}  // namespace tpx::control
