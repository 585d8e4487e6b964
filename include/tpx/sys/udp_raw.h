// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "tpx/base/address.h"
#include "tpx/sys/udp_socket.h"

// Answers from an address and port to which no UDP socket can be bound, because
// a service of this machine holds the port on all addresses. Raw sockets know no
// ports: the UDP header is made here, the kernel makes the IP header and
// fragments as it does for UDP sockets. It segments no trains.
namespace tpx::sys {

// As on the wire, with the checksum. Both endpoints are of one family; the
// payload is not longer than IP can carry.
using UdpHeader = std::array<uint8_t, 8>;
UdpHeader MakeUdpHeader(const Endpoint& source, const Endpoint& destination, std::span<const char> payload);

// What follows is for the data path: 0 or a positive result, or a negative errno.

// A socket that sends from `source`, which need not be local, as one of
// OpenUdpReplier does; the caller owns it. Nothing ever waits in it but errors.
int OpenRawUdpReplier(const IpAddr& source, uint32_t mark);

// Sends one datagram from departure.raw_source; never blocks. Like a UDP socket
// it fails once, without sending, where ICMP has reported an error meanwhile.
int SendRawUdp(int fd, std::span<const char> datagram, const UdpDeparture& departure);

// As TakeUdpError, without a payload, of what was sent from this port; the kernel
// gives a raw socket the errors of all ports of its address.
int TakeRawUdpError(int fd, uint16_t source_port, UdpError& out);

}  // namespace tpx::sys
