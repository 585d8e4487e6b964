// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <linux/inet_diag.h>

#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tpx/base/address.h"
#include "tpx/base/unique_fd.h"

struct nlmsghdr;

namespace tpx::sys {

// A TCP socket that no process has open any more: in TIME_WAIT, or closed and
// not yet done with its peer.
struct OrphanSocket {
  IpAddr local;
  uint32_t mark = 0;
  uint8_t family = 0;  // this and `id` name it to the kernel
  inet_diag_sockid id{};
};

// A connection that is open, or that a process has yet to accept or to close.
struct TcpConnection {
  Endpoint local, peer;
  uint32_t mark = 0;
  uint8_t family = 0;  // this and `id` name it to the kernel
  inet_diag_sockid id{};
  uint64_t cookie() const;  // no other socket of this machine ever has it
};

// The TCP sockets of the network namespace the caller is in (NETLINK_SOCK_DIAG).
class SockDiag {
 public:
  static absl::StatusOr<SockDiag> Open();

  // Those that `wanted` says yes to, of both families; a table that changes
  // meanwhile may miss or repeat some. An error where the kernel has no tcp_diag.
  absl::StatusOr<std::vector<OrphanSocket>> ListOrphans(
      const std::function<bool(const OrphanSocket&)>& wanted);

  // All connections, of both families; as above.
  absl::Status VisitConnections(const std::function<void(const TcpConnection&)>& visit);

  // Frees its tuple at once; a peer that still waits for something gets RST.
  // kNotFound: it has gone already. kUnimplemented: this kernel cannot.
  absl::Status Destroy(const OrphanSocket& orphan);
  // The peer gets RST at once, and whoever has the socket open ECONNABORTED.
  // Errors as above.
  absl::Status Destroy(const TcpConnection& connection);

 private:
  explicit SockDiag(UniqueFd fd) : fd_(std::move(fd)) {}
  using Visitor = std::function<void(const nlmsghdr& message)>;
  absl::Status Exchange(nlmsghdr& request, std::string_view what, const Visitor& visit);
  absl::Status List(uint8_t family, uint32_t states, const Visitor& visit);
  absl::Status Destroy(uint8_t family, const inet_diag_sockid& id);

  UniqueFd fd_;
  std::vector<char> buffer_;
  uint32_t sequence_ = 0;
};

}  // namespace tpx::sys
