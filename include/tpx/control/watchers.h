// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "tpx/bpf/object.h"
#include "tpx/control/lifecycle.h"
#include "tpx/sys/rtnl.h"
#include "tpx_watchers.h"

namespace tpx::control {

// Looks for those who would miss datagrams that tc forwards by itself, in the
// network namespace of the calling thread. One look costs some microseconds.
class Watchers {
 public:
  // Fails where the kernel cannot be asked: programs of type syscall need Linux 5.14, reading its memory
  // CAP_PERFMON.
  static absl::StatusOr<Watchers> Open(const Paths& paths);
  absl::StatusOr<uint32_t> Find();  // bits of tpx_watcher

 private:
  Watchers(bpf::Object object, sys::Rtnl rtnl) : object_(std::move(object)), rtnl_(std::move(rtnl)) {}
  bpf::Object object_;
  sys::Rtnl rtnl_;
};

// In words: "IPv4 input hook of netfilter".
std::vector<std::string> WatcherNames(uint32_t watchers);

}  // namespace tpx::control
