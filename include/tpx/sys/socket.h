// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"
#include "tpx/base/address.h"
#include "tpx/base/unique_fd.h"

// TCP sockets of the proxy. Every socket is AF_INET6 and dual-stack, so that
// both families have one code path; IPv4 is used as a mapped address.
//
// Every socket also lingers for 0 seconds: whenever it is closed without
// AllowGracefulClose, the peer gets RST. A process that crashes or is killed
// therefore never ends a stream with a FIN that its reader could take for the
// end of the data.
namespace tpx::sys {

struct Keepalive {
  uint32_t idle_s = 0;  // 0: the system's default
  uint32_t interval_s = 0;
  uint32_t count = 0;
};

struct ListenerOptions {
  uint16_t port = 0;  // 0 takes a free one
  uint32_t mark = 0;
  Keepalive keepalive;
};

// Listens on [::]:port for connections to any address, also to addresses that
// are not local (needs CAP_NET_ADMIN). Several may share a port. Accepted
// sockets inherit everything but the blocking mode; their local address is
// the destination that the client meant.
absl::StatusOr<UniqueFd> TransparentListener(const ListenerOptions& options);

absl::StatusOr<uint16_t> LocalPort(int fd);

// What follows is for the data path: 0 or a positive result, or a negative errno.

// Accepts one connection: its descriptor (non-blocking, close-on-exec, owned
// by the caller) and the client's address.
int AcceptConnection(int listener, Endpoint& client);

// What the client dialled, for an accepted socket.
int OriginalDestination(int fd, Endpoint& destination);

// TTL or hop limit of the SYN that opened an accepted socket, or 0 where it is
// not known (the handshake went through a SYN cookie). Can be asked once: the
// kernel frees its copy of the SYN with the answer.
int SynHopLimit(int fd);

struct UpstreamOptions {
  uint32_t mark = 0;
  Keepalive keepalive;
};

// A socket for a connection to a server, not yet bound; the caller owns it.
int OpenUpstream(const UpstreamOptions& options);

// Makes packets of `fd` leave with this TTL or hop limit.
int SetHopLimit(int fd, const Endpoint& destination, int hops);

// Binds to an address that need not be local. Port 0: chosen by connect, for
// the tuple, so that one address serves 64 k connections to each server.
int BindTransparent(int fd, const Endpoint& source);

// Starts connecting; -EINPROGRESS is the usual answer.
int StartConnect(int fd, const Endpoint& destination);

// Takes the socket's pending error: 0 or a positive errno.
int TakeError(int fd);

// Bytes sent but not yet acknowledged by the peer, a FIN counts as one.
int UnacknowledgedBytes(int fd);

// From now on close() ends the connection in order, in the background.
void AllowGracefulClose(int fd);

}  // namespace tpx::sys
