// SPDX-License-Identifier: Apache-2.0
#include "tpx/control/watchers.h"

#include "tpx/base/status.h"
#include "tpx/bpf/trial.h"

namespace tpx::control {

absl::StatusOr<Watchers> Watchers::Open(const Paths& paths) {
  TPX_ASSIGN_OR_RETURN(bpf::Object object, bpf::Object::LoadWatchers(paths.pins));
  return Watchers(std::move(object));
}

absl::StatusOr<uint32_t> Watchers::Find() {
  TPX_RETURN_IF_ERROR(bpf::RunWatchers(object_.watchers_fd(), watchers_));
  return watchers_.found;
}

std::vector<std::string> WatcherNames(uint32_t watchers) {
  constexpr const char* kNames[TPX_WATCHERS] = {"IPv4 prerouting hook of netfilter",
                                                "IPv6 prerouting hook of netfilter",
                                                "IPv4 input hook of netfilter",
                                                "IPv6 input hook of netfilter",
                                                "IPv4 output hook of netfilter",
                                                "IPv6 output hook of netfilter",
                                                "IPv4 postrouting hook of netfilter",
                                                "IPv6 postrouting hook of netfilter",
                                                "netfilter's ingress hook of a device",
                                                "another program or filter in tc",
                                                "policies of IPsec",
                                                "somebody whom the kernel does not tell of"};
  std::vector<std::string> names;
  for (uint32_t watcher = 0; watcher < TPX_WATCHERS; ++watcher)
    if ((watchers >> watcher & 1) != 0) names.emplace_back(kNames[watcher]);
  return names;
}

}  // namespace tpx::control
