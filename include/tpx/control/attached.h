// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tpx/bpf/map.h"
#include "tpx/bpf/shared_array.h"
#include "tpx/control/lifecycle.h"
#include "tpx_abi.h"

namespace tpx::control {

struct Serving {
  uint32_t workers = 0;
  uint16_t port = 0;        // of all listeners
  uint32_t udp_flow_s = 0;  // a UDP flow that is silent for longer is decided anew; 0: BPF's own default
};

// The loaded kernel side as a serving process uses it. Not thread-safe, but
// the workers' slots may be used by other threads all the time. The shared
// memory stays valid after a detach by somebody else; nobody reads it then.
class Attached {
 public:
  static absl::StatusOr<Attached> Open(const Paths& paths);

  // Slot of the shared page, id < TPX_MAX_WORKERS. Valid as long as this object.
  tpx_worker* worker(uint32_t id) { return &workers_[id]; }

  absl::Status SetListener(uint32_t worker, tpx_listener kind, int listener_fd);
  // What BPF has to know of the proxy.
  void SetProxy(const Serving& serving);
  // Bits of tpx_watcher, as they are now.
  void SetWatchers(uint32_t watchers);
  // Takes away those listeners that this object has set and nobody replaced.
  void RemoveListeners();

  // Brings the map of the gateway's own addresses up to date. kUnavailable: another command holds the
  // instance's lock for longer; so below.
  absl::Status RefreshLocalAddresses(std::chrono::milliseconds lock_timeout = kLockTimeout);
  // Follows devices as they come, go and change their names: attaches to new
  // ones that the configuration matches, forgets vanished ones, repairs rules
  // and routes that somebody removed. Returns what was changed, in words.
  absl::StatusOr<std::vector<std::string>> ReconcileDevices(
      std::chrono::milliseconds lock_timeout = kLockTimeout);

  // False once somebody detached (or detached and loaded again).
  bool StillPinned() const;
  // Whether any LAN device that is attached still exists.
  bool HasLanDevice() const;

 private:
  Attached(Paths paths, ino_t pin_inode, bpf::SharedArray<tpx_control> control,
           bpf::SharedArray<tpx_worker> workers, bpf::Map<uint32_t, uint64_t> listeners)
      : paths_(std::move(paths)),
        pin_inode_(pin_inode),
        control_(std::move(control)),
        workers_(std::move(workers)),
        listeners_(std::move(listeners)) {}

  Paths paths_;
  ino_t pin_inode_;  // of the control map's pin
  bpf::SharedArray<tpx_control> control_;
  bpf::SharedArray<tpx_worker> workers_;
  bpf::Map<uint32_t, uint64_t> listeners_;
  std::array<uint64_t, TPX_MAX_WORKERS * TPX_LISTENER_KINDS> cookies_{};  // of the sockets set; 0: none
};

}  // namespace tpx::control
