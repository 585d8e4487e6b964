// SPDX-License-Identifier: Apache-2.0
#include "socket_options.h"

#include <netinet/in.h>
#include <sys/socket.h>

#include <cerrno>

namespace tpx::sys {

int SetInt(int fd, int level, int option, int value) {
  return setsockopt(fd, level, option, &value, sizeof(value)) == 0 ? 0 : -errno;
}

int SetMark(int fd, uint32_t mark) {
  return mark == 0 ? 0 : SetInt(fd, SOL_SOCKET, SO_MARK, static_cast<int>(mark));
}

int SetTransparent(int fd) {
  if (int r = SetInt(fd, SOL_IP, IP_TRANSPARENT, 1); r < 0) return r;
  return SetInt(fd, SOL_IPV6, kIpv6Transparent, 1);
}

}  // namespace tpx::sys
