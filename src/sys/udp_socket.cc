// SPDX-License-Identifier: Apache-2.0
#include "tpx/sys/udp_socket.h"

#include <linux/errqueue.h>
#include <netinet/in.h>
#include <netinet/udp.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "send_control.h"
#include "socket_options.h"
#include "tpx/base/status.h"

namespace tpx::sys {
namespace {

// Where <netinet/in.h> of the oldest supported system lacks them.
#ifndef IPV6_ORIGDSTADDR
constexpr int IPV6_ORIGDSTADDR = 74;
#endif
#ifndef IPV6_RECVFRAGSIZE
constexpr int IPV6_RECVFRAGSIZE = 77;
#endif
#ifndef IP_RECVFRAGSIZE
constexpr int IP_RECVFRAGSIZE = 25;
#endif

const IpAddr kAnyV4{.raw = {{0, 0, htonl(0xffff), 0}}};

struct Option {
  int level, name;
};

int SetAll(int fd, std::span<const Option> options) {
  for (const Option& option : options) {
    if (int r = SetInt(fd, option.level, option.name, 1); r < 0) return r;
  }
  return 0;
}

constexpr Option kArrivalV4[] = {
    {SOL_IP, IP_RECVTOS}, {SOL_IP, IP_RECVTTL}, {SOL_IP, IP_RECVFRAGSIZE}, {SOL_UDP, UDP_GRO}};
constexpr Option kArrivalV6[] = {{SOL_IPV6, IPV6_RECVTCLASS},
                                 {SOL_IPV6, IPV6_RECVHOPLIMIT},
                                 {SOL_IPV6, IPV6_RECVFRAGSIZE},
                                 {SOL_UDP, UDP_GRO}};
constexpr Option kDestination[] = {{SOL_IP, IP_RECVORIGDSTADDR}, {SOL_IPV6, IPV6_ORIGDSTADDR}};

// With an error queue.
int Open(bool v4, uint32_t mark, UniqueFd& out) {
  out.Reset(socket(v4 ? AF_INET : AF_INET6, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_UDP));
  if (!out) return -errno;
  if (int r = SetMark(out.get(), mark); r < 0) return r;
  if (v4) return SetInt(out.get(), SOL_IP, IP_RECVERR, 1);
  // The port of IPv4 is that of another socket.
  if (int r = SetInt(out.get(), SOL_IPV6, IPV6_V6ONLY, 1); r < 0) return r;
  return SetInt(out.get(), SOL_IPV6, IPV6_RECVERR, 1);
}

int Bind(int fd, const Endpoint& at) {
  sockaddr_storage address{};
  const socklen_t length = at.ToNativeSockaddr(address);
  return bind(fd, reinterpret_cast<const sockaddr*>(&address), length) == 0 ? 0 : -errno;
}

int SetListenerOptions(int fd, uint32_t mark) {
  if (int r = SetMark(fd, mark); r < 0) return r;
  if (int r = SetInt(fd, SOL_IPV6, IPV6_V6ONLY, 0); r < 0) return r;
  if (int r = SetTransparent(fd); r < 0) return r;
  if (int r = SetInt(fd, SOL_SOCKET, SO_REUSEPORT, 1); r < 0) return r;
  // Other hosts have that port too, and answers are sent from it.
  if (int r = SetInt(fd, SOL_SOCKET, SO_REUSEADDR, 1); r < 0) return r;
  // All clients share it: room for the bursts of one turn of the loop.
  constexpr int kReceiveBuffer = 8 << 20;
  if (int r = SetInt(fd, SOL_SOCKET, SO_RCVBUFFORCE, kReceiveBuffer); r < 0) return r;
  // IPv4 datagrams on an AF_INET6 socket obey the options of SOL_IP.
  for (std::span<const Option> options :
       {std::span<const Option>(kDestination), {kArrivalV4}, {kArrivalV6}}) {
    if (int r = SetAll(fd, options); r < 0) return r;
  }
  return 0;
}

size_t PayloadOf(const cmsghdr& message) {
  return message.cmsg_len < CMSG_LEN(0) ? 0 : message.cmsg_len - CMSG_LEN(0);
}

// Of as many bytes as there are; the rest is 0.
template <typename T>
T ValueOf(const cmsghdr& message, size_t offset = 0) {
  T value{};
  const size_t size = PayloadOf(message);
  if (size > offset) {
    memcpy(&value, CMSG_DATA(&message) + offset, std::min(size - offset, sizeof(value)));
  }
  return value;
}

Endpoint AddressIn(const cmsghdr& message, size_t offset = 0) {
  const auto address = ValueOf<sockaddr_storage>(message, offset);
  return Endpoint::FromSockaddr(reinterpret_cast<const sockaddr&>(address));
}

// Calls `visit` for each control message that lies within its bounds.
template <typename Visit>
void ForEachControl(const msghdr& message, Visit&& visit) {
  auto& mutable_message = const_cast<msghdr&>(message);  // the macros want it, and change nothing
  for (cmsghdr* c = CMSG_FIRSTHDR(&mutable_message); c != nullptr; c = CMSG_NXTHDR(&mutable_message, c)) {
    const auto* end = static_cast<const char*>(message.msg_control) + message.msg_controllen;
    if (c->cmsg_len < sizeof(*c) || c->cmsg_len > static_cast<size_t>(end - reinterpret_cast<char*>(c)))
      return;
    visit(*c);
  }
}

void NoteV4(const cmsghdr& message, UdpArrival& arrival) {
  switch (message.cmsg_type) {
    case IP_ORIGDSTADDR:
      arrival.destination = AddressIn(message);
      break;
    case IP_TOS:  // one byte
      arrival.traffic_class = ValueOf<uint8_t>(message);
      break;
    case IP_TTL:
      arrival.hops = static_cast<uint8_t>(ValueOf<int>(message));
      break;
    case IP_RECVFRAGSIZE:
      arrival.fragmented = true;
      break;
  }
}

void NoteV6(const cmsghdr& message, UdpArrival& arrival) {
  switch (message.cmsg_type) {
    case IPV6_ORIGDSTADDR:
      arrival.destination = AddressIn(message);
      break;
    case IPV6_TCLASS:
      arrival.traffic_class = static_cast<uint8_t>(ValueOf<int>(message));
      break;
    case IPV6_HOPLIMIT:
      arrival.hops = static_cast<uint8_t>(ValueOf<int>(message));
      break;
    case IPV6_RECVFRAGSIZE:
      arrival.fragmented = true;
      break;
  }
}

void NoteError(const cmsghdr& message, UdpError& out) {
  const bool v4 = message.cmsg_level == SOL_IP && message.cmsg_type == IP_RECVERR;
  const bool v6 = message.cmsg_level == SOL_IPV6 && message.cmsg_type == IPV6_RECVERR;
  if (!v4 && !v6) return;
  const auto entry = ValueOf<sock_extended_err>(message);
  out.error = static_cast<int>(entry.ee_errno);
  out.v4 = entry.ee_origin == SO_EE_ORIGIN_ICMP;
  out.from_network = out.v4 || entry.ee_origin == SO_EE_ORIGIN_ICMP6;
  out.type = entry.ee_type;
  out.code = entry.ee_code;
  if (entry.ee_errno == EMSGSIZE) out.mtu = entry.ee_info;
  out.offender = AddressIn(message, sizeof(entry)).addr;  // SO_EE_OFFENDER
}

}  // namespace

absl::StatusOr<UniqueFd> TransparentUdpListener(uint16_t port, uint32_t mark) {
  UniqueFd fd(socket(AF_INET6, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_UDP));
  if (!fd) return ErrnoStatus(errno, "socket of a UDP listener");
  if (int r = SetListenerOptions(fd.get(), mark); r < 0) {
    return ErrnoStatus(-r, "options of a transparent UDP listener (needs CAP_NET_ADMIN)");
  }
  if (int r = Bind(fd.get(), {.addr = {}, .port = port}); r < 0) {
    return ErrnoStatus(-r, "bind of a UDP listener; choose another port or stop who uses it");
  }
  return fd;
}

int OpenUdpUpstream(bool v4, uint32_t mark) {
  UniqueFd fd;
  if (int r = Open(v4, mark, fd); r < 0) return r;
  if (int r = AllowFragments(fd.get(), v4, false); r < 0) return r;
  if (int r = v4 ? SetAll(fd.get(), kArrivalV4) : SetAll(fd.get(), kArrivalV6); r < 0) return r;
  return fd.Release();
}

int AllowFragments(int fd, bool v4, bool allow) {
  if (v4) return SetInt(fd, SOL_IP, IP_MTU_DISCOVER, allow ? IP_PMTUDISC_DONT : IP_PMTUDISC_DO);
  return SetInt(fd, SOL_IPV6, IPV6_MTU_DISCOVER, allow ? IPV6_PMTUDISC_WANT : IPV6_PMTUDISC_DO);
}

int ConnectUdp(int fd, const Endpoint& destination) {
  sockaddr_storage address{};
  const socklen_t length = destination.ToNativeSockaddr(address);
  return connect(fd, reinterpret_cast<const sockaddr*>(&address), length) == 0 ? 0 : -errno;
}

int TakeUdpPort(int fd, bool v4) { return Bind(fd, {.addr = v4 ? kAnyV4 : IpAddr{}, .port = 0}); }

int ReleaseUdpPort(int fd) {
  const sockaddr nobody{.sa_family = AF_UNSPEC, .sa_data = {}};
  return connect(fd, &nobody, sizeof(nobody)) == 0 ? 0 : -errno;
}

bool IsBoundToDevice(int fd) {
  int index = 0;
  socklen_t length = sizeof(index);
  return getsockopt(fd, SOL_SOCKET, SO_BINDTOIFINDEX, &index, &length) != 0 || index != 0;
}

int ShareUdpAddress(int fd) { return SetInt(fd, SOL_SOCKET, SO_REUSEADDR, 1); }

int BindUdpTransparent(int fd, const Endpoint& source) {
  const int r =
      source.addr.is_v4() ? SetInt(fd, SOL_IP, IP_TRANSPARENT, 1) : SetInt(fd, SOL_IPV6, kIpv6Transparent, 1);
  if (r < 0) return r;
  return Bind(fd, source);
}

int OpenUdpReplier(const Endpoint& source, uint32_t mark) {
  const bool v4 = source.addr.is_v4();
  UniqueFd fd;
  if (int r = Open(v4, mark, fd); r < 0) return r;
  // Each worker has one for the same source.
  if (int r = ShareUdpAddress(fd.get()); r < 0) return r;
  if (int r = AllowFragments(fd.get(), v4, true); r < 0) return r;
  if (int r = BindUdpTransparent(fd.get(), source); r < 0) return r;
  return fd.Release();
}

UdpArrival ParseUdpArrival(const msghdr& message) {
  UdpArrival arrival;
  if (message.msg_name != nullptr && message.msg_namelen >= sizeof(sockaddr_in)) {
    arrival.peer = Endpoint::FromSockaddr(*static_cast<const sockaddr*>(message.msg_name));
  }
  ForEachControl(message, [&](const cmsghdr& c) {
    if (c.cmsg_level == SOL_UDP && c.cmsg_type == UDP_GRO) {
      arrival.segment_size = static_cast<uint16_t>(ValueOf<int>(c));
    } else if (c.cmsg_level == SOL_IP) {
      NoteV4(c, arrival);
    } else if (c.cmsg_level == SOL_IPV6) {
      NoteV6(c, arrival);
    }
  });
  return arrival;
}

int SendUdp(int fd, std::span<const iovec> bytes, const UdpDeparture& departure) {
  sockaddr_storage address;
  msghdr message{};
  message.msg_iov = const_cast<iovec*>(bytes.data());
  message.msg_iovlen = bytes.size();
  if (!departure.connected) {
    message.msg_name = &address;
    message.msg_namelen = departure.destination.ToNativeSockaddr(address);
  }
  SendControl control;
  control.AddTrafficClass(departure);
  if (departure.segment_size != 0) control.Add(SOL_UDP, UDP_SEGMENT, departure.segment_size);
  control.PutInto(message);
  const ssize_t n = sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  return n < 0 ? -errno : static_cast<int>(n);
}

int TakeUdpError(int fd, std::span<char> payload, UdpError& out) {
  sockaddr_storage destination{};
  alignas(cmsghdr) char control[512];
  iovec bytes{.iov_base = payload.data(), .iov_len = payload.size()};
  msghdr message{};
  message.msg_name = &destination;
  message.msg_namelen = sizeof(destination);
  message.msg_iov = &bytes;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  const ssize_t n = recvmsg(fd, &message, MSG_ERRQUEUE | MSG_DONTWAIT);
  if (n < 0) return -errno;
  out = ParseUdpError(message);
  out.payload_len = static_cast<size_t>(n);
  return 0;
}

UdpError ParseUdpError(const msghdr& message) {
  UdpError out;
  if (message.msg_name != nullptr && message.msg_namelen >= sizeof(sockaddr_in)) {
    out.destination = Endpoint::FromSockaddr(*static_cast<const sockaddr*>(message.msg_name));
  }
  ForEachControl(message, [&](const cmsghdr& c) { NoteError(c, out); });
  return out;
}

}  // namespace tpx::sys
