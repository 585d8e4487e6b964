// SPDX-License-Identifier: Apache-2.0
#include <linux/fib_rules.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_format.h"
#include "rtnl_message.h"
#include "tpx/base/status.h"
#include "tpx/base/strings.h"
#include "tpx/sys/rtnl.h"

namespace tpx::sys {
namespace {

constexpr uint16_t kCreate = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;

uint8_t NativeFamily(Family family) { return family == Family::kIpv4 ? AF_INET : AF_INET6; }

// 127.0.0.1 or ::1; the number of its bytes.
size_t PutLoopback(RtnlRequest& request, uint16_t type, Family family) {
  constexpr uint8_t kV4[] = {127, 0, 0, 1};
  const uint8_t* bytes = family == Family::kIpv4 ? kV4 : in6addr_loopback.s6_addr;
  const size_t size = family == Family::kIpv4 ? sizeof(kV4) : sizeof(in6addr_loopback);
  request.Put(type, bytes, size);
  return size;
}

void PutRule(RtnlRequest& request, const PolicyRule& rule) {
  auto& header = request.Extra<fib_rule_hdr>();
  header.family = NativeFamily(rule.family);
  header.action = FR_ACT_TO_TBL;
  request.Put(FRA_IIFNAME, rule.iif);
  if (rule.from_loopback) {
    header.src_len = static_cast<uint8_t>(8 * PutLoopback(request, FRA_SRC, rule.family));
  }
  if (rule.mask != 0) {
    request.Put(FRA_FWMARK, rule.mark);
    request.Put(FRA_FWMASK, rule.mask);
  }
  request.Put(FRA_TABLE, rule.table);
  request.Put(FRA_PRIORITY, rule.priority);
  request.Put(FRA_PROTOCOL, kRouteProtocol);
}

absl::Status PutRoute(RtnlRequest& request, const LocalRoute& route) {
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
  PutLoopback(request, RTA_PREFSRC, route.family);
  return absl::OkStatus();
}

// Whether that is the answer of a kernel that lacks the family.
bool LacksFamily(const absl::Status& status) {
  return status.code() == absl::ErrnoToStatusCode(EAFNOSUPPORT);
}

template <typename T>
void Append(std::vector<T>& to, std::vector<T>&& from) {
  to.insert(to.end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
}

}  // namespace

std::string PolicyRule::ToString() const {
  const std::string from = from_loopback ? family == Family::kIpv4 ? " from 127.0.0.1" : " from ::1" : "";
  const std::string fwmark = mask == 0 ? "" : absl::StrFormat(" fwmark 0x%x/0x%x", mark, mask);
  return StrCat(FamilyName(family), " rule ", priority, ": iif ", iif, from, fwmark, " lookup ", table);
}

std::string LocalRoute::ToString() const {
  return StrCat(FamilyName(family), " route local default dev lo table ", table);
}

absl::Status Rtnl::AddRule(const PolicyRule& rule) {
  RtnlRequest request(RTM_NEWRULE, kCreate);
  PutRule(request, rule);
  return Change(request.header(), StrCat("add ", rule.ToString()));
}

absl::Status Rtnl::DeleteRule(const PolicyRule& rule) {
  RtnlRequest request(RTM_DELRULE, NLM_F_ACK);
  PutRule(request, rule);
  return Change(request.header(), StrCat("delete ", rule.ToString()));
}

absl::StatusOr<std::vector<PolicyRule>> Rtnl::ListRules() {
  std::vector<PolicyRule> rules;
  for (Family family : kFamilies) {
    RtnlRequest request(RTM_GETRULE, NLM_F_DUMP);
    request.Extra<fib_rule_hdr>().family = NativeFamily(family);
    const auto parse = [&](const nlmsghdr& message) -> std::optional<PolicyRule> {
      const auto attrs = Attributes::After<fib_rule_hdr>(message);
      if (attrs.U8(FRA_PROTOCOL) != kRouteProtocol) return std::nullopt;
      return PolicyRule{.family = family,
                        .iif = attrs.Text(FRA_IIFNAME),
                        .from_loopback = attrs.Has(FRA_SRC),
                        .mark = attrs.U32(FRA_FWMARK),
                        .mask = attrs.U32(FRA_FWMASK),
                        .table = attrs.U32(FRA_TABLE),
                        .priority = attrs.U32(FRA_PRIORITY)};
    };
    auto found = List<PolicyRule>(request, "list rules", parse);
    if (!found.ok() && !LacksFamily(found.status())) return found.status();
    if (found.ok()) Append(rules, *std::move(found));
  }
  return rules;
}

absl::StatusOr<bool> Rtnl::HasRulesByMore() {
  constexpr uint16_t kMore[] = {FRA_IIFNAME, FRA_OIFNAME, FRA_FWMARK,   FRA_FWMASK,
                                FRA_TUN_ID,  FRA_L3MDEV,  FRA_UID_RANGE};
  for (Family family : kFamilies) {
    RtnlRequest request(RTM_GETRULE, NLM_F_DUMP);
    request.Extra<fib_rule_hdr>().family = NativeFamily(family);
    const auto parse = [&](const nlmsghdr& message) -> std::optional<bool> {
      const auto attrs = Attributes::After<fib_rule_hdr>(message);
      if (attrs.U8(FRA_PROTOCOL) == kRouteProtocol) return std::nullopt;
      const bool has_any = std::ranges::any_of(kMore, [&](uint16_t type) { return attrs.Has(type); });
      return has_any ? std::optional(true) : std::nullopt;
    };
    const auto found = List<bool>(request, "list rules", parse);
    if (!found.ok() && !LacksFamily(found.status())) return found.status();
    if (found.ok() && !found->empty()) return true;
  }
  return false;
}

absl::Status Rtnl::AddRoute(const LocalRoute& route) {
  RtnlRequest request(RTM_NEWROUTE, kCreate);
  TPX_RETURN_IF_ERROR(PutRoute(request, route));
  return Change(request.header(), StrCat("add ", route.ToString()));
}

absl::Status Rtnl::DeleteRoute(const LocalRoute& route) {
  RtnlRequest request(RTM_DELROUTE, NLM_F_ACK);
  TPX_RETURN_IF_ERROR(PutRoute(request, route));
  return Change(request.header(), StrCat("delete ", route.ToString()));
}

absl::StatusOr<std::vector<LocalRoute>> Rtnl::ListRoutes(uint32_t table) {
  std::vector<LocalRoute> routes;
  for (Family family : kFamilies) {
    RtnlRequest request(RTM_GETROUTE, NLM_F_DUMP);
    request.Extra<rtmsg>().rtm_family = NativeFamily(family);
    request.Put(RTA_TABLE, table);
    const auto parse = [&](const nlmsghdr& message) -> std::optional<LocalRoute> {
      const auto attrs = Attributes::After<rtmsg>(message);
      const auto& header = *static_cast<const rtmsg*>(mnl_nlmsg_get_payload(&message));
      if (header.rtm_protocol != kRouteProtocol || header.rtm_type != RTN_LOCAL) return std::nullopt;
      if (attrs.U32(RTA_TABLE, header.rtm_table) != table || header.rtm_dst_len != 0) return std::nullopt;
      return LocalRoute{.family = family, .table = table};
    };
    auto found = List<LocalRoute>(request, "list routes", parse);
    // kNotFound: there is no such table.
    if (!found.ok() && !absl::IsNotFound(found.status()) && !LacksFamily(found.status()))
      return found.status();
    if (found.ok()) Append(routes, *std::move(found));
  }
  return routes;
}

}  // namespace tpx::sys
