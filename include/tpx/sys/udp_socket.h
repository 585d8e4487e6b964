// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/socket.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/statusor.h"
#include "tpx/base/address.h"
#include "tpx/base/unique_fd.h"

// UDP sockets of the proxy: AF_INET6 and dual-stack like the TCP ones, so that
// IPv4 has mapped addresses everywhere. Received and sent are segment trains
// where the kernel makes them (UDP_GRO, Linux 5.0; UDP_SEGMENT, 4.18): a run of
// datagrams of one length in one buffer, the last one perhaps shorter.
namespace tpx::sys {

// Receives datagrams to any address at this port, also to addresses that are
// not local (needs CAP_NET_ADMIN). Several may share the port.
absl::StatusOr<UniqueFd> TransparentUdpListener(uint16_t port, uint32_t mark);

// What follows is for the data path: 0 or a positive result, or a negative errno.

// A socket of one family towards servers; the caller owns it. Errors that ICMP reports wait
// in its error queue. Its datagrams carry the don't-fragment bit, and one that
// is too large for the path fails with -EMSGSIZE.
int OpenUdpUpstream(bool v4, uint32_t mark);
// Lets the kernel fragment what is too large for the path, or not; of IPv4 also
// the routers (the kernel learns no path's size for a source that is not local).
int AllowFragments(int fd, bool v4, bool allow);
int ConnectUdp(int fd, const Endpoint& destination);
// Takes a port of the gateway's own for all addresses; -EADDRINUSE when there is none left.
int TakeUdpPort(int fd, bool v4);
// Gives up the port and the peer, though a request may still hold the socket.
int ReleaseUdpPort(int fd);
// Whether sockets are bound to a device when they are made, as in a VRF's cgroup; giving up the port undoes
// that.
bool IsBoundToDevice(int fd);
// Lets several sockets that have called this bind to one address and port.
int ShareUdpAddress(int fd);
// Binds to a port of an address that need not be local.
int BindUdpTransparent(int fd, const Endpoint& source);

// A socket, of its family, that sends from `source`, which need not be local; the caller owns it.
// What is too large for the way is fragmented.
int OpenUdpReplier(const Endpoint& source, uint32_t mark);

// Space for the control messages below, in both directions.
inline constexpr size_t kUdpControlSize = 256;

// What came along with the datagrams of one receive call.
struct UdpArrival {
  Endpoint peer;
  Endpoint destination;       // as the sender wrote it; listeners only
  uint16_t segment_size = 0;  // 0: one datagram
  uint8_t traffic_class = 0;
  uint8_t hops = 0;         // 0: not known
  bool fragmented = false;  // came in fragments
};
// Takes control messages as they come: what is too short or unknown is passed over.
UdpArrival ParseUdpArrival(const msghdr& message);

// How datagrams are to leave.
struct UdpDeparture {
  Endpoint destination{};
  bool connected = false;     // the socket is connected to it
  uint16_t segment_size = 0;  // 0: all bytes are one datagram
  uint8_t traffic_class = 0;
  uint8_t hops = 0;       // 0: the system's default
  Endpoint raw_source{};  // port 0: no raw socket (udp_raw.h)
};
// Never blocks.
int SendUdp(int fd, std::span<const iovec> bytes, const UdpDeparture& departure);

// An entry of the error queue: a datagram that was sent came back in an ICMP
// error, or was refused here because of its size.
struct UdpError {
  int error = 0;               // positive errno
  bool from_network = false;   // else from this machine's stack
  uint8_t type = 0, code = 0;  // of the ICMP message, in the numbers of its family
  bool v4 = false;             // which family that is
  uint32_t mtu = 0;            // where the datagram was too large
  IpAddr offender;             // who sent the ICMP message
  Endpoint destination;        // of the datagram
  size_t payload_len = 0;      // bytes of the datagram that came back
};
UdpError ParseUdpError(const msghdr& message);  // all but payload_len
// Takes one entry, its payload cut to the buffer; -EAGAIN when there is none.
int TakeUdpError(int fd, std::span<char> payload, UdpError& out);

}  // namespace tpx::sys
