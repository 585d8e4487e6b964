// SPDX-License-Identifier: Apache-2.0
#include "tpx/sys/rtnl.h"

#include <linux/netlink.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>

#include "rtnl_message.h"
#include "tpx/base/status.h"
#include "tpx/base/strings.h"

namespace tpx::sys {
namespace {

constexpr size_t kReceiveBytes = 64 << 10;
constexpr int kDumpTries = 10;

// The text of an extended acknowledgement, empty where there is none.
std::string ExtendedAck(const nlmsghdr& message) {
  if ((message.nlmsg_flags & NLM_F_ACK_TLVS) == 0) return "";
  const auto* error = static_cast<const nlmsgerr*>(mnl_nlmsg_get_payload(&message));
  size_t offset = sizeof(nlmsgerr);
  if ((message.nlmsg_flags & NLM_F_CAPPED) == 0) offset += error->msg.nlmsg_len - sizeof(nlmsghdr);
  std::string text;
  ForEachAttribute(message, offset, [&](const nlattr* attr) {
    if (mnl_attr_get_type(attr) == NLMSGERR_ATTR_MSG) text = AttributeText(attr);
  });
  return text;
}

absl::Status ToStatus(const nlmsghdr& message, std::string_view what) {
  if (mnl_nlmsg_get_payload_len(&message) < sizeof(nlmsgerr))
    return absl::InternalError("short netlink error");
  const int error = -static_cast<const nlmsgerr*>(mnl_nlmsg_get_payload(&message))->error;
  if (error == 0) return absl::OkStatus();
  absl::Status status = ErrnoStatus(error, what);
  const std::string reason = ExtendedAck(message);
  if (error == ESRCH) status = absl::NotFoundError(status.message());
  return reason.empty() ? status : absl::Status(status.code(), StrCat(status.message(), " (", reason, ")"));
}

}  // namespace

std::string_view FamilyName(Family family) { return family == Family::kIpv4 ? "IPv4" : "IPv6"; }

absl::StatusOr<Rtnl> Rtnl::Open() {
  UniqueFd fd(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
  if (!fd) return ErrnoStatus(errno, "socket NETLINK_ROUTE");
  // Strict checking makes the kernel filter dumps; both need Linux 4.20 at most.
  for (int option : {NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK}) {
    const int on = 1;
    if (setsockopt(fd.get(), SOL_NETLINK, option, &on, sizeof(on)) != 0) {
      return ErrnoStatus(errno, "setsockopt SOL_NETLINK");
    }
  }
  return Rtnl(std::move(fd));
}

absl::Status Rtnl::Send(nlmsghdr& request, std::string_view what) {
  request.nlmsg_seq = ++sequence_;
  if (send(fd_.get(), &request, request.nlmsg_len, 0) < 0) return ErrnoStatus(errno, StrCat("send: ", what));
  return absl::OkStatus();
}

absl::Status Rtnl::Change(nlmsghdr& request, std::string_view what) {
  TPX_RETURN_IF_ERROR(Send(request, what));
  alignas(nlmsghdr) std::array<char, 8192> buffer;
  while (true) {
    const ssize_t received = recv(fd_.get(), buffer.data(), buffer.size(), 0);
    if (received < 0 && errno == EINTR) continue;
    if (received < 0) return ErrnoStatus(errno, StrCat("recv: ", what));
    int left = static_cast<int>(received);
    for (auto* message = reinterpret_cast<nlmsghdr*>(buffer.data()); mnl_nlmsg_ok(message, left);
         message = mnl_nlmsg_next(message, &left)) {
      if (message->nlmsg_seq == sequence_ && message->nlmsg_type == NLMSG_ERROR)
        return ToStatus(*message, what);
    }
  }
}

absl::Status Rtnl::Dump(nlmsghdr& request, std::string_view what, const std::function<void()>& restart,
                        const Visitor& visit) {
  for (int i = 0; i < kDumpTries; ++i) {
    bool interrupted = false;
    TPX_RETURN_IF_ERROR(Send(request, what));
    TPX_RETURN_IF_ERROR(ReadDump(sequence_, what, visit, &interrupted));
    if (!interrupted) return absl::OkStatus();
    restart();
  }
  return absl::UnavailableError(StrCat(what, ": the table keeps changing, try again"));
}

absl::Status Rtnl::ReadDump(uint32_t sequence, std::string_view what, const Visitor& visit,
                            bool* interrupted) {
  std::vector<char> buffer(kReceiveBytes);
  while (true) {
    const ssize_t received = recv(fd_.get(), buffer.data(), buffer.size(), 0);
    if (received < 0 && errno == EINTR) continue;
    if (received < 0) return ErrnoStatus(errno, StrCat("recv: ", what));
    int left = static_cast<int>(received);
    for (auto* message = reinterpret_cast<nlmsghdr*>(buffer.data()); mnl_nlmsg_ok(message, left);
         message = mnl_nlmsg_next(message, &left)) {
      if (message->nlmsg_seq != sequence) continue;
      if ((message->nlmsg_flags & NLM_F_DUMP_INTR) != 0) *interrupted = true;
      if (message->nlmsg_type == NLMSG_ERROR) return ToStatus(*message, what);
      if (message->nlmsg_type == NLMSG_DONE) {
        const bool has_error = mnl_nlmsg_get_payload_len(message) >= sizeof(int);
        const int error = has_error ? -*static_cast<int*>(mnl_nlmsg_get_payload(message)) : 0;
        return error > 0 ? ErrnoStatus(error, what) : absl::OkStatus();
      }
      visit(*message);
    }
  }
}

}  // namespace tpx::sys
