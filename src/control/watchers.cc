// SPDX-License-Identifier: Apache-2.0
#include "tpx/control/watchers.h"

#include "tpx/base/status.h"
#include "tpx/bpf/trial.h"

namespace tpx::control {

absl::StatusOr<Watchers> Watchers::Open(const Paths& paths) {
  TPX_ASSIGN_OR_RETURN(bpf::Object object, bpf::Object::LoadWatchers(paths.pins));
  TPX_ASSIGN_OR_RETURN(sys::Rtnl rtnl, sys::Rtnl::Open());
  return Watchers(std::move(object), std::move(rtnl));
}

absl::StatusOr<uint32_t> Watchers::Find() {
  tpx_watchers watchers{};
  TPX_RETURN_IF_ERROR(bpf::RunWatchers(object_.watchers_fd(), watchers));
  TPX_ASSIGN_OR_RETURN(const bool has_rules, rtnl_.HasRulesByMore());
  return watchers.found | (has_rules ? 1U << TPX_WATCHER_RULES : 0);
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
                                                "netfilter's ingress or egress hook of a device",
                                                "another program or filter in tc",
                                                "policies of IPsec",
                                                "routing rules by mark, device, user or tunnel",
                                                "unknown: to look takes Linux 5.14, BTF and CAP_PERFMON"};
  std::vector<std::string> names;
  for (uint32_t watcher = 0; watcher < TPX_WATCHERS; ++watcher)
    if ((watchers >> watcher & 1) != 0) names.emplace_back(kNames[watcher]);
  return names;
}

}  // namespace tpx::control
