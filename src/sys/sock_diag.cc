// SPDX-License-Identifier: Apache-2.0
#include "tpx/sys/sock_diag.h"

#include <arpa/inet.h>
#include <libmnl/libmnl.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "tpx/base/status.h"

namespace tpx::sys {
namespace {

constexpr size_t kReceiveBytes = 64 << 10;

// Those in which a socket may be without a process. One that waits to be
// accepted has none either, but is in none of these.
constexpr uint32_t kClosedStates =
    1U << TCP_TIME_WAIT | 1U << TCP_FIN_WAIT1 | 1U << TCP_FIN_WAIT2 | 1U << TCP_CLOSING | 1U << TCP_LAST_ACK;

constexpr uint32_t kConnectedStates = kClosedStates | 1U << TCP_ESTABLISHED | 1U << TCP_CLOSE_WAIT;

class Request {
 public:
  Request(uint16_t type, uint16_t flags, uint8_t family) : header_(mnl_nlmsg_put_header(buffer_.data())) {
    header_->nlmsg_type = type;
    header_->nlmsg_flags = NLM_F_REQUEST | flags;
    body_ = static_cast<inet_diag_req_v2*>(mnl_nlmsg_put_extra_header(header_, sizeof(inet_diag_req_v2)));
    body_->sdiag_family = family;
    body_->sdiag_protocol = IPPROTO_TCP;
  }
  nlmsghdr& header() { return *header_; }
  inet_diag_req_v2& body() { return *body_; }

 private:
  alignas(nlmsghdr) std::array<char, 256> buffer_{};
  nlmsghdr* header_;
  inet_diag_req_v2* body_;
};

IpAddr Address(uint8_t family, const uint32_t (&words)[4]) {
  IpAddr addr;
  if (family == AF_INET) {
    addr.raw.w[2] = htonl(0xffff);
    addr.raw.w[3] = words[0];
  } else {
    memcpy(addr.raw.w, words, sizeof(words));
  }
  return addr;
}

int TakeMark(const nlattr* attr, void* mark) {
  if (mnl_attr_get_type(attr) == INET_DIAG_MARK && mnl_attr_validate(attr, MNL_TYPE_U32) == 0)
    *static_cast<uint32_t*>(mark) = mnl_attr_get_u32(attr);
  return MNL_CB_OK;
}

const inet_diag_msg& BodyOf(const nlmsghdr& message) {
  return *static_cast<const inet_diag_msg*>(mnl_nlmsg_get_payload(&message));
}

uint32_t MarkOf(const nlmsghdr& message) {
  uint32_t mark = 0;
  mnl_attr_parse(&message, sizeof(inet_diag_msg), TakeMark, &mark);
  return mark;
}

// The code of an error or end message: 0 or a positive errno.
int ErrorOf(const nlmsghdr& message) {
  if (mnl_nlmsg_get_payload_len(&message) < sizeof(int)) return 0;
  return -*static_cast<const int*>(mnl_nlmsg_get_payload(&message));
}

}  // namespace

absl::StatusOr<SockDiag> SockDiag::Open() {
  UniqueFd fd(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
  if (!fd) return ErrnoStatus(errno, "socket NETLINK_SOCK_DIAG");
  return SockDiag(std::move(fd));
}

absl::Status SockDiag::Exchange(nlmsghdr& request, std::string_view what, const Visitor& visit) {
  request.nlmsg_seq = ++sequence_;
  if (send(fd_.get(), &request, request.nlmsg_len, 0) < 0) return ErrnoStatus(errno, what);
  buffer_.resize(kReceiveBytes);
  while (true) {
    const ssize_t received = recv(fd_.get(), buffer_.data(), buffer_.size(), 0);
    if (received < 0 && errno == EINTR) continue;
    if (received < 0) return ErrnoStatus(errno, what);
    int left = static_cast<int>(received);
    for (auto* message = reinterpret_cast<nlmsghdr*>(buffer_.data()); mnl_nlmsg_ok(message, left);
         message = mnl_nlmsg_next(message, &left)) {
      if (message->nlmsg_seq != sequence_) continue;
      if (message->nlmsg_type == NLMSG_ERROR || message->nlmsg_type == NLMSG_DONE) {
        const int error = ErrorOf(*message);
        return error > 0 ? ErrnoStatus(error, what) : absl::OkStatus();
      }
      visit(*message);
    }
  }
}

absl::Status SockDiag::List(uint8_t family, uint32_t states, const Visitor& visit) {
  Request request(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, family);
  request.body().idiag_states = states;
  return Exchange(request.header(), "list TCP sockets", [&](const nlmsghdr& message) {
    if (mnl_nlmsg_get_payload_len(&message) >= sizeof(inet_diag_msg)) visit(message);
  });
}

// Dual-stack sockets are AF_INET6, with mapped addresses where they speak IPv4.
absl::StatusOr<std::vector<OrphanSocket>> SockDiag::ListOrphans(
    const std::function<bool(const OrphanSocket&)>& wanted) {
  std::vector<OrphanSocket> orphans;
  for (const uint8_t family : {AF_INET, AF_INET6}) {
    TPX_RETURN_IF_ERROR(List(family, kClosedStates, [&](const nlmsghdr& message) {
      const inet_diag_msg& body = BodyOf(message);
      if (body.idiag_inode != 0) return;
      OrphanSocket orphan{.local = Address(body.idiag_family, body.id.idiag_src),
                          .mark = MarkOf(message),
                          .family = body.idiag_family,
                          .id = body.id};
      if (wanted(orphan)) orphans.push_back(orphan);
    }));
  }
  return orphans;
}

absl::Status SockDiag::VisitConnections(const std::function<void(const TcpConnection&)>& visit) {
  for (const uint8_t family : {AF_INET, AF_INET6}) {
    TPX_RETURN_IF_ERROR(List(family, kConnectedStates, [&](const nlmsghdr& message) {
      const inet_diag_msg& body = BodyOf(message);
      const bool closed = (1U << body.idiag_state & kClosedStates) != 0;
      if (closed && body.idiag_inode == 0) return;
      visit({.local = {Address(body.idiag_family, body.id.idiag_src), ntohs(body.id.idiag_sport)},
             .peer = {Address(body.idiag_family, body.id.idiag_dst), ntohs(body.id.idiag_dport)},
             .mark = MarkOf(message),
             .family = body.idiag_family,
             .id = body.id});
    }));
  }
  return absl::OkStatus();
}

absl::Status SockDiag::Destroy(uint8_t family, const inet_diag_sockid& id) {
  Request request(SOCK_DESTROY, NLM_F_ACK, family);
  request.body().id = id;
  request.body().idiag_states = kConnectedStates;
  return Exchange(request.header(), "destroy a TCP socket", [](const nlmsghdr&) {});
}

absl::Status SockDiag::Destroy(const OrphanSocket& orphan) { return Destroy(orphan.family, orphan.id); }

absl::Status SockDiag::Destroy(const TcpConnection& connection) {
  return Destroy(connection.family, connection.id);
}

uint64_t TcpConnection::cookie() const { return uint64_t{id.idiag_cookie[1]} << 32 | id.idiag_cookie[0]; }

}  // namespace tpx::sys
