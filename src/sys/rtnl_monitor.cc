// SPDX-License-Identifier: Apache-2.0
#include <libmnl/libmnl.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>

#include "tpx/base/status.h"
#include "tpx/sys/rtnl.h"

namespace tpx::sys {

absl::StatusOr<RtnlMonitor> RtnlMonitor::Open() {
  UniqueFd fd(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE));
  if (!fd) return ErrnoStatus(errno, "socket NETLINK_ROUTE");
  sockaddr_nl address{};
  address.nl_family = AF_NETLINK;
  address.nl_groups = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR;
  if (bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
    return ErrnoStatus(errno, "bind to netlink groups");
  }
  return RtnlMonitor(std::move(fd));
}

absl::StatusOr<RtnlMonitor::Changes> RtnlMonitor::Drain() {
  Changes changes;
  alignas(nlmsghdr) std::array<char, 16384> buffer;
  while (true) {
    const ssize_t received = recv(fd_.get(), buffer.data(), buffer.size(), 0);
    if (received < 0 && errno == EINTR) continue;
    if (received < 0 && errno == EAGAIN) return changes;
    if (received < 0 && errno == ENOBUFS) {
      changes = {.links = true, .addresses = true};
      continue;
    }
    if (received < 0) return ErrnoStatus(errno, "recv from netlink groups");
    int left = static_cast<int>(received);
    for (auto* message = reinterpret_cast<nlmsghdr*>(buffer.data()); mnl_nlmsg_ok(message, left);
         message = mnl_nlmsg_next(message, &left)) {
      changes.links |= message->nlmsg_type == RTM_NEWLINK || message->nlmsg_type == RTM_DELLINK;
      changes.addresses |= message->nlmsg_type == RTM_NEWADDR || message->nlmsg_type == RTM_DELADDR;
    }
  }
}

}  // namespace tpx::sys
