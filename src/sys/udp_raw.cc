// SPDX-License-Identifier: Apache-2.0
#include "tpx/sys/udp_raw.h"

#include <linux/filter.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

#include "checksum.h"
#include "send_control.h"
#include "socket_options.h"
#include "tpx/base/unique_fd.h"

namespace tpx::sys {
namespace {

// A raw socket is given a copy of every UDP packet to its address, whatever the
// port, from the moment it exists. The filter refuses them all. It does not
// concern the error queue.
int RefuseAll(int fd) {
  sock_filter refuse = BPF_STMT(BPF_RET | BPF_K, 0);
  const sock_fprog program{.len = 1, .filter = &refuse};
  return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) == 0 ? 0 : -errno;
}

// What came before the filter was there would stay for as long as the socket, in
// the space that the error queue needs. It ends: nothing more comes in, but for a
// packet that another CPU had past the filter's place before the filter was there.
void Drain(int fd) {
  while (recv(fd, nullptr, 0, MSG_DONTWAIT | MSG_TRUNC) >= 0) {
  }
}

// Those of OpenUdpReplier, of the socket's own family: raw sockets have no other.
int SetOptions(int fd, bool v4, uint32_t mark) {
  if (int r = SetMark(fd, mark); r < 0) return r;
  if (v4) {
    if (int r = SetInt(fd, SOL_IP, IP_TRANSPARENT, 1); r < 0) return r;
    if (int r = SetInt(fd, SOL_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT); r < 0) return r;
    return SetInt(fd, SOL_IP, IP_RECVERR, 1);
  }
  if (int r = SetInt(fd, SOL_IPV6, kIpv6Transparent, 1); r < 0) return r;
  if (int r = SetInt(fd, SOL_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_WANT); r < 0) return r;
  return SetInt(fd, SOL_IPV6, IPV6_RECVERR, 1);
}

void AddAddress(InternetChecksum& sum, const IpAddr& address) {
  address.is_v4() ? sum.Add(&address.raw.w[3], sizeof(address.raw.w[3]))
                  : sum.Add(&address.raw, sizeof(address.raw));
}

// 0, or the error that waited.
int TakePendingError(int fd) {
  int error = 0;
  socklen_t length = sizeof(error);
  return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) == 0 ? -error : -errno;
}

}  // namespace

UdpHeader MakeUdpHeader(const Endpoint& source, const Endpoint& destination, std::span<const char> payload) {
  udphdr udp{};
  udp.source = htons(source.port);
  udp.dest = htons(destination.port);
  udp.len = htons(static_cast<uint16_t>(sizeof(udp) + payload.size()));
  InternetChecksum sum;
  AddAddress(sum, source.addr);
  AddAddress(sum, destination.addr);
  const uint16_t pseudo[] = {htons(IPPROTO_UDP), udp.len};
  sum.Add(pseudo, sizeof(pseudo));
  sum.Add(&udp, sizeof(udp));
  sum.Add(payload.data(), payload.size());
  udp.check = sum.value() == 0 ? 0xffff : sum.value();  // 0 would mean that there is none
  UdpHeader header;
  static_assert(sizeof(udp) == sizeof(header));
  memcpy(header.data(), &udp, sizeof(udp));
  return header;
}

int OpenRawUdpReplier(const IpAddr& source, uint32_t mark) {
  const bool v4 = source.is_v4();
  UniqueFd fd(socket(v4 ? AF_INET : AF_INET6, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_UDP));
  if (!fd) return -errno;
  if (int r = RefuseAll(fd.get()); r < 0) return r;
  if (int r = SetOptions(fd.get(), v4, mark); r < 0) return r;
  sockaddr_storage address{};
  const socklen_t length = Endpoint{source, 0}.ToNativeSockaddr(address);
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), length) != 0) return -errno;
  Drain(fd.get());
  return fd.Release();
}

int SendRawUdp(int fd, std::span<const char> datagram, const UdpDeparture& departure) {
  if (datagram.size() > UINT16_MAX - sizeof(udphdr)) return -EMSGSIZE;
  if (int r = TakePendingError(fd); r < 0) return r;
  UdpHeader header = MakeUdpHeader(departure.raw_source, departure.destination, datagram);
  iovec parts[] = {{.iov_base = header.data(), .iov_len = header.size()},
                   {.iov_base = const_cast<char*>(datagram.data()), .iov_len = datagram.size()}};
  sockaddr_storage address;
  msghdr message{};
  message.msg_iov = parts;
  message.msg_iovlen = std::size(parts);
  message.msg_name = &address;
  // Where a port would be, raw sockets of IPv6 have the protocol.
  message.msg_namelen = Endpoint{departure.destination.addr, 0}.ToNativeSockaddr(address);
  SendControl control;
  control.AddTrafficClass(departure);
  control.PutInto(message);
  const ssize_t n = sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  return n < 0 ? -errno : static_cast<int>(n);
}

int TakeRawUdpError(int fd, uint16_t source_port, UdpError& out) {
  udphdr quoted;
  for (;;) {
    if (int r = TakeUdpError(fd, {reinterpret_cast<char*>(&quoted), sizeof(quoted)}, out); r < 0) return r;
    if (out.payload_len < sizeof(quoted) || ntohs(quoted.source) != source_port) continue;
    out.destination.port = ntohs(quoted.dest);
    out.payload_len = 0;
    return 0;
  }
}

}  // namespace tpx::sys
