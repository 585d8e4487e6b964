// SPDX-License-Identifier: Apache-2.0
#include "tpx/sys/rtnl.h"

#include <arpa/inet.h>
#include <libmnl/libmnl.h>
#include <linux/fib_rules.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_format.h"
#include "tpx/base/status.h"
#include "tpx/base/strings.h"

namespace tpx::sys {
namespace {

constexpr size_t kReceiveBytes = 64 << 10;
constexpr size_t kRequestBytes = 512;
constexpr int kDumpTries = 10;

uint8_t NativeFamily(Family family) { return family == Family::kIpv4 ? AF_INET : AF_INET6; }

// Room for one request.
class Request {
 public:
  Request(uint16_t type, uint16_t flags) : header_(mnl_nlmsg_put_header(buffer_.data())) {
    header_->nlmsg_type = type;
    header_->nlmsg_flags = NLM_F_REQUEST | flags;
  }
  template <typename T>
  T& Extra() {
    return *static_cast<T*>(mnl_nlmsg_put_extra_header(header_, sizeof(T)));
  }
  nlmsghdr& header() { return *header_; }
  void Put(uint16_t type, uint32_t value) { mnl_attr_put_u32(header_, type, value); }
  void Put(uint16_t type, uint8_t value) { mnl_attr_put_u8(header_, type, value); }
  void Put(uint16_t type, const std::string& text) { mnl_attr_put_strz(header_, type, text.c_str()); }

 private:
  alignas(nlmsghdr) std::array<char, kRequestBytes> buffer_{};
  nlmsghdr* header_;
};

std::string AttributeText(const nlattr* attr) {
  const char* text = mnl_attr_get_str(attr);
  return std::string(text, strnlen(text, mnl_attr_get_payload_len(attr)));
}

// libmnl's own loop macro is C only.
template <typename Visit>
void ForEach(const nlmsghdr& message, size_t offset, Visit visit) {
  const auto* end = static_cast<const char*>(mnl_nlmsg_get_payload_tail(&message));
  const auto* attr = static_cast<const nlattr*>(mnl_nlmsg_get_payload_offset(&message, offset));
  while (mnl_attr_ok(attr, static_cast<int>(end - reinterpret_cast<const char*>(attr)))) {
    visit(attr);
    attr = mnl_attr_next(attr);
  }
}

// Attributes by type; a type beyond the table is ignored.
class Attributes {
 public:
  template <typename Payload>
  static Attributes After(const nlmsghdr& message) {
    Attributes table;
    if (message.nlmsg_len < mnl_nlmsg_size(sizeof(Payload))) return table;
    ForEach(message, sizeof(Payload), [&](const nlattr* attr) {
      if (mnl_attr_get_type(attr) < kTypes) table.at_[mnl_attr_get_type(attr)] = attr;
    });
    return table;
  }
  bool Has(size_t type) const { return at_[type] != nullptr; }
  uint32_t U32(size_t type, uint32_t otherwise = 0) const {
    return Fits(type, 4) ? mnl_attr_get_u32(at_[type]) : otherwise;
  }
  uint8_t U8(size_t type, uint8_t otherwise = 0) const {
    return Fits(type, 1) ? mnl_attr_get_u8(at_[type]) : otherwise;
  }
  std::string Text(size_t type) const { return Has(type) ? AttributeText(at_[type]) : ""; }
  std::optional<IpAddr> Address(size_t type) const {
    IpAddr addr;
    if (Fits(type, 16)) {
      memcpy(addr.raw.w, mnl_attr_get_payload(at_[type]), 16);
    } else if (Fits(type, 4)) {
      addr.raw.w[2] = htonl(0xffff);
      memcpy(&addr.raw.w[3], mnl_attr_get_payload(at_[type]), 4);
    } else {
      return std::nullopt;
    }
    return addr;
  }

 private:
  bool Fits(size_t type, size_t bytes) const {
    return at_[type] != nullptr && mnl_attr_get_payload_len(at_[type]) >= bytes;
  }
  static constexpr size_t kTypes = 64;  // more than any type that is read here
  std::array<const nlattr*, kTypes> at_{};
};

// The text of an extended acknowledgement, empty where there is none.
std::string ExtendedAck(const nlmsghdr& message) {
  if ((message.nlmsg_flags & NLM_F_ACK_TLVS) == 0) return "";
  const auto* error = static_cast<const nlmsgerr*>(mnl_nlmsg_get_payload(&message));
  size_t offset = sizeof(nlmsgerr);
  if ((message.nlmsg_flags & NLM_F_CAPPED) == 0) offset += error->msg.nlmsg_len - sizeof(nlmsghdr);
  std::string text;
  ForEach(message, offset, [&](const nlattr* attr) {
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

void PutRule(Request& request, const PolicyRule& rule) {
  auto& header = request.Extra<fib_rule_hdr>();
  header.family = NativeFamily(rule.family);
  header.action = FR_ACT_TO_TBL;
  request.Put(FRA_IIFNAME, rule.iif);
  request.Put(FRA_FWMARK, rule.mark);
  request.Put(FRA_FWMASK, rule.mask);
  request.Put(FRA_TABLE, rule.table);
  request.Put(FRA_PRIORITY, rule.priority);
  request.Put(FRA_PROTOCOL, kRouteProtocol);
}

absl::Status PutRoute(Request& request, const LocalRoute& route) {
  const unsigned loopback = if_nametoindex("lo");
  if (loopback == 0) return ErrnoStatus(errno, "if_nametoindex lo");
  auto& header = request.Extra<rtmsg>();
  header.rtm_family = NativeFamily(route.family);
  header.rtm_table = RT_TABLE_UNSPEC;
  header.rtm_protocol = kRouteProtocol;
  header.rtm_scope = route.family == Family::kIpv4 ? RT_SCOPE_HOST : RT_SCOPE_UNIVERSE;
  header.rtm_type = RTN_LOCAL;
  request.Put(RTA_TABLE, route.table);
  request.Put(RTA_OIF, loopback);
  return absl::OkStatus();
}

constexpr uint16_t kCreate = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;

}  // namespace

std::string_view FamilyName(Family family) { return family == Family::kIpv4 ? "IPv4" : "IPv6"; }

std::string PolicyRule::ToString() const {
  return absl::StrFormat("%s rule %u: iif %s fwmark 0x%x/0x%x lookup %u", FamilyName(family), priority, iif,
                         mark, mask, table);
}

std::string LocalRoute::ToString() const {
  return StrCat(FamilyName(family), " route local default dev lo table ", table);
}

bool LinkInfo::is_loopback() const { return (flags & IFF_LOOPBACK) != 0; }
bool LinkInfo::is_up() const { return (flags & IFF_UP) != 0; }

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

absl::Status Rtnl::AddRule(const PolicyRule& rule) {
  Request request(RTM_NEWRULE, kCreate);
  PutRule(request, rule);
  return Change(request.header(), StrCat("add ", rule.ToString()));
}

absl::Status Rtnl::DeleteRule(const PolicyRule& rule) {
  Request request(RTM_DELRULE, NLM_F_ACK);
  PutRule(request, rule);
  return Change(request.header(), StrCat("delete ", rule.ToString()));
}

absl::StatusOr<std::vector<PolicyRule>> Rtnl::ListRules() {
  std::vector<PolicyRule> rules;
  for (Family family : kFamilies) {
    const std::vector<PolicyRule> before = rules;
    Request request(RTM_GETRULE, NLM_F_DUMP);
    request.Extra<fib_rule_hdr>().family = NativeFamily(family);
    absl::Status status = Dump(
        request.header(), "list rules", [&] { rules = before; },
        [&](const nlmsghdr& message) {
          const auto attrs = Attributes::After<fib_rule_hdr>(message);
          if (attrs.U8(FRA_PROTOCOL) != kRouteProtocol) return;
          rules.push_back({.family = family,
                           .iif = attrs.Text(FRA_IIFNAME),
                           .mark = attrs.U32(FRA_FWMARK),
                           .mask = attrs.U32(FRA_FWMASK),
                           .table = attrs.U32(FRA_TABLE),
                           .priority = attrs.U32(FRA_PRIORITY)});
        });
    // EAFNOSUPPORT: the kernel lacks the family.
    if (!status.ok() && status.code() != absl::ErrnoToStatusCode(EAFNOSUPPORT)) return status;
  }
  return rules;
}

absl::Status Rtnl::AddRoute(const LocalRoute& route) {
  Request request(RTM_NEWROUTE, kCreate);
  TPX_RETURN_IF_ERROR(PutRoute(request, route));
  return Change(request.header(), StrCat("add ", route.ToString()));
}

absl::Status Rtnl::DeleteRoute(const LocalRoute& route) {
  Request request(RTM_DELROUTE, NLM_F_ACK);
  TPX_RETURN_IF_ERROR(PutRoute(request, route));
  return Change(request.header(), StrCat("delete ", route.ToString()));
}

absl::StatusOr<std::vector<LocalRoute>> Rtnl::ListRoutes(uint32_t table) {
  std::vector<LocalRoute> routes;
  for (Family family : kFamilies) {
    const std::vector<LocalRoute> before = routes;
    Request request(RTM_GETROUTE, NLM_F_DUMP);
    request.Extra<rtmsg>().rtm_family = NativeFamily(family);
    request.Put(RTA_TABLE, table);
    absl::Status status = Dump(
        request.header(), "list routes", [&] { routes = before; },
        [&](const nlmsghdr& message) {
          const auto attrs = Attributes::After<rtmsg>(message);
          const auto& header = *static_cast<const rtmsg*>(mnl_nlmsg_get_payload(&message));
          const uint32_t in = attrs.U32(RTA_TABLE, header.rtm_table);
          if (header.rtm_protocol != kRouteProtocol || header.rtm_type != RTN_LOCAL || in != table) return;
          if (header.rtm_dst_len == 0) routes.push_back({.family = family, .table = table});
        });
    // ENOENT: there is no such table.
    if (!status.ok() && !absl::IsNotFound(status) && status.code() != absl::ErrnoToStatusCode(EAFNOSUPPORT)) {
      return status;
    }
  }
  return routes;
}

absl::StatusOr<std::vector<LinkInfo>> Rtnl::ListLinks() {
  std::vector<LinkInfo> links;
  Request request(RTM_GETLINK, NLM_F_DUMP);
  request.Extra<ifinfomsg>().ifi_family = AF_UNSPEC;
  TPX_RETURN_IF_ERROR(Dump(
      request.header(), "list links", [&] { links.clear(); },
      [&](const nlmsghdr& message) {
        const auto& header = *static_cast<const ifinfomsg*>(mnl_nlmsg_get_payload(&message));
        const auto attrs = Attributes::After<ifinfomsg>(message);
        links.push_back({.index = header.ifi_index,
                         .name = attrs.Text(IFLA_IFNAME),
                         .flags = header.ifi_flags,
                         .type = header.ifi_type});
      }));
  return links;
}

absl::StatusOr<std::vector<AddressInfo>> Rtnl::ListAddresses() {
  std::vector<AddressInfo> addresses;
  Request request(RTM_GETADDR, NLM_F_DUMP);
  request.Extra<ifaddrmsg>().ifa_family = AF_UNSPEC;
  TPX_RETURN_IF_ERROR(Dump(
      request.header(), "list addresses", [&] { addresses.clear(); },
      [&](const nlmsghdr& message) {
        const auto& header = *static_cast<const ifaddrmsg*>(mnl_nlmsg_get_payload(&message));
        const auto attrs = Attributes::After<ifaddrmsg>(message);
        // On a point-to-point device IFA_ADDRESS is the peer's.
        const auto addr = attrs.Has(IFA_LOCAL) ? attrs.Address(IFA_LOCAL) : attrs.Address(IFA_ADDRESS);
        if (!addr.has_value()) return;
        const uint8_t shift = header.ifa_family == AF_INET ? 96 : 0;
        addresses.push_back({.index = static_cast<int>(header.ifa_index),
                             .addr = *addr,
                             .prefix_length = static_cast<uint8_t>(shift + header.ifa_prefixlen),
                             .broadcast = attrs.Address(IFA_BROADCAST)});
      }));
  return addresses;
}

absl::StatusOr<bool> Rtnl::HasIngressQdisc(int ifindex) {
  bool found = false;
  Request request(RTM_GETQDISC, NLM_F_DUMP);
  request.Extra<tcmsg>().tcm_ifindex = ifindex;
  TPX_RETURN_IF_ERROR(Dump(
      request.header(), "list qdiscs", [&] { found = false; },
      [&](const nlmsghdr& message) {
        const auto& header = *static_cast<const tcmsg*>(mnl_nlmsg_get_payload(&message));
        // Some kernels send every device's, whatever the request says.
        found |= header.tcm_ifindex == ifindex && header.tcm_parent == TC_H_CLSACT;
      }));
  return found;
}

absl::StatusOr<bool> Rtnl::HasFilters(int ifindex) {
  bool found = false;
  for (uint32_t hook : {TC_H_MIN_INGRESS, TC_H_MIN_EGRESS}) {
    Request request(RTM_GETTFILTER, NLM_F_DUMP);
    auto& header = request.Extra<tcmsg>();
    header.tcm_ifindex = ifindex;
    header.tcm_parent = TC_H_MAKE(TC_H_CLSACT, hook);
    TPX_RETURN_IF_ERROR(Dump(
        request.header(), "list filters", [] {}, [&](const nlmsghdr&) { found = true; }));
  }
  return found;
}

absl::StatusOr<RtnlMonitor> RtnlMonitor::Open() {
  UniqueFd fd(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE));
  if (!fd) return ErrnoStatus(errno, "socket NETLINK_ROUTE");
  sockaddr_nl address{};
  address.nl_family = AF_NETLINK;
  address.nl_groups = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR;
  if (bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
    return ErrnoStatus(errno, "bind to netlink groups");
  }
  return RtnlMonitor(std::move(fd));
}

absl::StatusOr<RtnlMonitor::Changes> RtnlMonitor::Drain() {
  Changes changes;
  alignas(nlmsghdr) std::array<char, 16384> buffer;
  while (true) {
    const ssize_t received = recv(fd_.get(), buffer.data(), buffer.size(), 0);
    if (received < 0 && errno == EINTR) continue;
    if (received < 0 && errno == EAGAIN) return changes;
    if (received < 0 && errno == ENOBUFS) {
      changes = {.links = true, .addresses = true};
      continue;
    }
    if (received < 0) return ErrnoStatus(errno, "recv from netlink groups");
    int left = static_cast<int>(received);
    for (auto* message = reinterpret_cast<nlmsghdr*>(buffer.data()); mnl_nlmsg_ok(message, left);
         message = mnl_nlmsg_next(message, &left)) {
      changes.links |= message->nlmsg_type == RTM_NEWLINK || message->nlmsg_type == RTM_DELLINK;
      changes.addresses |= message->nlmsg_type == RTM_NEWADDR || message->nlmsg_type == RTM_DELADDR;
    }
  }
}

}  // namespace tpx::sys
