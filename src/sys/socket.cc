// SPDX-License-Identifier: Apache-2.0
#include "tpx/sys/socket.h"

#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

#include "socket_options.h"
#include "tpx/base/status.h"

namespace tpx::sys {
namespace {

// The kernel cuts it to net.core.somaxconn.
constexpr int kBacklog = 4096;

int SetKeepalive(int fd, const Keepalive& keepalive) {
  if (int r = SetInt(fd, SOL_SOCKET, SO_KEEPALIVE, 1); r < 0) return r;
  const struct {
    int option;
    uint32_t value;
  } settings[] = {{TCP_KEEPIDLE, keepalive.idle_s},
                  {TCP_KEEPINTVL, keepalive.interval_s},
                  {TCP_KEEPCNT, keepalive.count}};
  for (const auto& s : settings) {
    if (s.value == 0) continue;
    if (int r = SetInt(fd, IPPROTO_TCP, s.option, static_cast<int>(s.value)); r < 0) return r;
  }
  return 0;
}

// What a socket of either side of a session has; an accepted socket inherits
// it from its listener.
int SetCommonOptions(int fd, const Keepalive& keepalive) {
  const linger reset_on_close{.l_onoff = 1, .l_linger = 0};
  if (setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset_on_close, sizeof(reset_on_close)) != 0) return -errno;
  if (int r = SetInt(fd, IPPROTO_TCP, TCP_NODELAY, 1); r < 0) return r;
  // Urgent bytes stay in the stream: the relay forwards every byte in order
  // and does not forward the urgent pointer.
  if (int r = SetInt(fd, SOL_SOCKET, SO_OOBINLINE, 1); r < 0) return r;
  return SetKeepalive(fd, keepalive);
}

int SetListenerOptions(int fd, const ListenerOptions& options) {
  if (int r = SetMark(fd, options.mark); r < 0) return r;
  if (int r = SetInt(fd, SOL_IPV6, IPV6_V6ONLY, 0); r < 0) return r;
  if (int r = SetTransparent(fd); r < 0) return r;
  if (int r = SetInt(fd, SOL_SOCKET, SO_REUSEPORT, 1); r < 0) return r;
  if (int r = SetInt(fd, IPPROTO_TCP, TCP_SAVE_SYN, 1); r < 0) return r;
  return SetCommonOptions(fd, options.keepalive);
}

}  // namespace

absl::StatusOr<UniqueFd> TransparentListener(const ListenerOptions& options) {
  UniqueFd fd(socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP));
  if (!fd) return ErrnoStatus(errno, "socket of a listener");
  if (int r = SetListenerOptions(fd.get(), options); r < 0) {
    return ErrnoStatus(-r, "options of a transparent listener (needs CAP_NET_ADMIN)");
  }
  sockaddr_storage address{};
  const socklen_t length = Endpoint{.addr = {}, .port = options.port}.ToSockaddr6(address);
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), length) != 0) {
    return ErrnoStatus(errno, "bind of a listener; choose another port or stop who uses it");
  }
  if (listen(fd.get(), kBacklog) != 0) return ErrnoStatus(errno, "listen");
  return fd;
}

absl::StatusOr<uint16_t> LocalPort(int fd) {
  Endpoint local;
  if (int r = OriginalDestination(fd, local); r < 0) return ErrnoStatus(-r, "getsockname");
  return local.port;
}

int AcceptConnection(int listener, Endpoint& client) {
  sockaddr_storage address{};
  socklen_t length = sizeof(address);
  const int fd =
      accept4(listener, reinterpret_cast<sockaddr*>(&address), &length, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd < 0) return -errno;
  client = Endpoint::FromSockaddr(reinterpret_cast<const sockaddr&>(address));
  return fd;
}

int OriginalDestination(int fd, Endpoint& destination) {
  sockaddr_storage address{};
  socklen_t length = sizeof(address);
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0) return -errno;
  destination = Endpoint::FromSockaddr(reinterpret_cast<const sockaddr&>(address));
  return 0;
}

int SynHopLimit(int fd) {
  constexpr size_t kVersionByte = 0, kHopLimitByte = 7, kTtlByte = 8;
  uint8_t syn[512];  // network and TCP headers; longer ones are left with the kernel and count as unknown
  socklen_t length = sizeof(syn);
  if (getsockopt(fd, IPPROTO_TCP, TCP_SAVED_SYN, syn, &length) != 0) return errno == EINVAL ? 0 : -errno;
  if (length <= kTtlByte) return 0;
  return syn[kVersionByte] >> 4 == 4 ? syn[kTtlByte] : syn[kHopLimitByte];
}

int OpenUpstream(const UpstreamOptions& options) {
  UniqueFd fd(socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP));
  if (!fd) return -errno;
  if (int r = SetMark(fd.get(), options.mark); r < 0) return r;
  if (int r = SetInt(fd.get(), SOL_IPV6, IPV6_V6ONLY, 0); r < 0) return r;
  if (int r = SetCommonOptions(fd.get(), options.keepalive); r < 0) return r;
  return fd.Release();
}

int SetHopLimit(int fd, const Endpoint& destination, int hops) {
  return destination.addr.is_v4() ? SetInt(fd, SOL_IP, IP_TTL, hops)
                                  : SetInt(fd, SOL_IPV6, IPV6_UNICAST_HOPS, hops);
}

int BindTransparent(int fd, const Endpoint& source) {
  if (int r = SetTransparent(fd); r < 0) return r;
  if (int r = SetInt(fd, SOL_SOCKET, SO_REUSEADDR, 1); r < 0) return r;
  if (source.port == 0) {
    if (int r = SetInt(fd, SOL_IP, IP_BIND_ADDRESS_NO_PORT, 1); r < 0) return r;
  }
  sockaddr_storage address{};
  const socklen_t length = source.ToSockaddr6(address);
  return bind(fd, reinterpret_cast<const sockaddr*>(&address), length) == 0 ? 0 : -errno;
}

int StartConnect(int fd, const Endpoint& destination) {
  sockaddr_storage address{};
  const socklen_t length = destination.ToSockaddr6(address);
  return connect(fd, reinterpret_cast<const sockaddr*>(&address), length) == 0 ? 0 : -errno;
}

int TakeError(int fd) {
  int error = 0;
  socklen_t length = sizeof(error);
  return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) == 0 ? error : errno;
}

int UnacknowledgedBytes(int fd) {
  int bytes = 0;
  return ioctl(fd, SIOCOUTQ, &bytes) == 0 ? bytes : -errno;
}

void AllowGracefulClose(int fd) {
  const linger in_background{.l_onoff = 0, .l_linger = 0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &in_background, sizeof(in_background));
}

}  // namespace tpx::sys
