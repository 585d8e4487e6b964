// SPDX-License-Identifier: Apache-2.0
#include "tpx/sys/rlimit.h"

#include <fcntl.h>
#include <sys/resource.h>

#include <algorithm>
#include <fstream>

#include "tpx/base/unique_fd.h"

namespace tpx::sys {

uint64_t RaiseDescriptorLimit(uint64_t wanted) {
  rlimit now{};
  if (getrlimit(RLIMIT_NOFILE, &now) != 0) return 1024;
  if (wanted > now.rlim_max) {
    const rlimit more{wanted, wanted};
    if (setrlimit(RLIMIT_NOFILE, &more) == 0) return wanted;
  }
  const rlimit full{now.rlim_max, now.rlim_max};
  return setrlimit(RLIMIT_NOFILE, &full) == 0 ? full.rlim_cur : now.rlim_cur;
}

void ReserveDescriptorTable(uint64_t count) {
  constexpr uint64_t kMost = 262'144;
  const UniqueFd any(open("/", O_PATH | O_CLOEXEC));
  if (!any || count == 0) return;
  const UniqueFd last(fcntl(any.get(), F_DUPFD_CLOEXEC, static_cast<int>(std::min(count, kMost) - 1)));
}

uint32_t EphemeralPorts() {
  uint32_t first = 32768, last = 60999;  // Linux's defaults
  std::ifstream("/proc/sys/net/ipv4/ip_local_port_range") >> first >> last;
  return last < first ? 1 : last - first + 1;
}

}  // namespace tpx::sys
