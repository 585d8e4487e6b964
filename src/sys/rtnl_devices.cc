// SPDX-License-Identifier: Apache-2.0
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <sys/socket.h>

#include "rtnl_message.h"
#include "tpx/base/status.h"
#include "tpx/sys/rtnl.h"

namespace tpx::sys {

namespace {

// The id of a device of kind "vlan" (802.1Q or 802.1ad); else 0.
uint16_t VlanOf(const Attributes& link) {
  const Attributes info = link.Nested(IFLA_LINKINFO);
  return info.Text(IFLA_INFO_KIND) == "vlan" ? info.Nested(IFLA_INFO_DATA).U16(IFLA_VLAN_ID) : 0;
}

Xdp XdpOf(uint8_t attached) {
  switch (attached) {
    case XDP_ATTACHED_NONE:
      return Xdp::kNone;
    case XDP_ATTACHED_DRV:
      return Xdp::kNative;
    case XDP_ATTACHED_SKB:
      return Xdp::kGeneric;
    default:
      return Xdp::kOther;
  }
}

}  // namespace

bool LinkInfo::is_loopback() const { return (flags & IFF_LOOPBACK) != 0; }
bool LinkInfo::is_up() const { return (flags & IFF_UP) != 0; }

absl::StatusOr<std::vector<LinkInfo>> Rtnl::ListLinks() {
  RtnlRequest request(RTM_GETLINK, NLM_F_DUMP);
  request.Extra<ifinfomsg>().ifi_family = AF_UNSPEC;
  return List<LinkInfo>(request, "list links", [](const nlmsghdr& message) -> std::optional<LinkInfo> {
    const auto& header = *static_cast<const ifinfomsg*>(mnl_nlmsg_get_payload(&message));
    const auto attrs = Attributes::After<ifinfomsg>(message);
    const auto xdp = attrs.Nested(IFLA_XDP);
    // The lower device of a veth is its peer, with an index of the peer's namespace.
    const bool foreign = attrs.Has(IFLA_LINK_NETNSID);
    return LinkInfo{.index = header.ifi_index,
                    .name = attrs.Text(IFLA_IFNAME),
                    .flags = header.ifi_flags,
                    .type = header.ifi_type,
                    .vlan = VlanOf(attrs),
                    .kind = attrs.Nested(IFLA_LINKINFO).Text(IFLA_INFO_KIND),
                    .bus = attrs.Text(IFLA_PARENT_DEV_BUS_NAME),
                    .lower = foreign ? 0 : static_cast<int>(attrs.U32(IFLA_LINK)),
                    .master = static_cast<int>(attrs.U32(IFLA_MASTER)),
                    .xdp = XdpOf(xdp.U8(IFLA_XDP_ATTACHED)),
                    .xdp_program = xdp.U32(IFLA_XDP_PROG_ID)};
  });
}

absl::StatusOr<std::vector<AddressInfo>> Rtnl::ListAddresses() {
  RtnlRequest request(RTM_GETADDR, NLM_F_DUMP);
  request.Extra<ifaddrmsg>().ifa_family = AF_UNSPEC;
  const auto parse = [](const nlmsghdr& message) -> std::optional<AddressInfo> {
    const auto& header = *static_cast<const ifaddrmsg*>(mnl_nlmsg_get_payload(&message));
    const auto attrs = Attributes::After<ifaddrmsg>(message);
    // On a point-to-point device IFA_ADDRESS is the peer's.
    const auto addr = attrs.Has(IFA_LOCAL) ? attrs.Address(IFA_LOCAL) : attrs.Address(IFA_ADDRESS);
    if (!addr.has_value()) return std::nullopt;
    const uint8_t shift = header.ifa_family == AF_INET ? 96 : 0;
    return AddressInfo{.index = static_cast<int>(header.ifa_index),
                       .addr = *addr,
                       .prefix_length = static_cast<uint8_t>(shift + header.ifa_prefixlen),
                       .broadcast = attrs.Address(IFA_BROADCAST)};
  };
  return List<AddressInfo>(request, "list addresses", parse);
}

absl::StatusOr<bool> Rtnl::HasEthernetHeaders(int ifindex) {
  RtnlRequest request(RTM_GETLINK, NLM_F_ACK);  // what ends a list of one
  request.Extra<ifinfomsg>().ifi_index = ifindex;
  const auto parse = [](const nlmsghdr& message) {
    return std::optional(static_cast<const ifinfomsg*>(mnl_nlmsg_get_payload(&message))->ifi_type);
  };
  TPX_ASSIGN_OR_RETURN(const auto types, List<uint16_t>(request, "get link", parse));
  return !types.empty() && types.front() == ARPHRD_ETHER;
}

absl::StatusOr<bool> Rtnl::HasIngressQdisc(int ifindex) {
  RtnlRequest request(RTM_GETQDISC, NLM_F_DUMP);
  request.Extra<tcmsg>().tcm_ifindex = ifindex;
  const auto parse = [&](const nlmsghdr& message) -> std::optional<uint32_t> {
    const auto& header = *static_cast<const tcmsg*>(mnl_nlmsg_get_payload(&message));
    // Some kernels send every device's, whatever the request says.
    if (header.tcm_ifindex != ifindex || header.tcm_parent != TC_H_CLSACT) return std::nullopt;
    return header.tcm_handle;
  };
  TPX_ASSIGN_OR_RETURN(const auto handles, List<uint32_t>(request, "list qdiscs", parse));
  return !handles.empty();
}

absl::StatusOr<bool> Rtnl::HasFilters(int ifindex) {
  for (uint32_t hook : {TC_H_MIN_INGRESS, TC_H_MIN_EGRESS}) {
    RtnlRequest request(RTM_GETTFILTER, NLM_F_DUMP);
    auto& header = request.Extra<tcmsg>();
    header.tcm_ifindex = ifindex;
    header.tcm_parent = TC_H_MAKE(TC_H_CLSACT, hook);
    const auto parse = [](const nlmsghdr& message) {
      return std::optional(static_cast<const tcmsg*>(mnl_nlmsg_get_payload(&message))->tcm_handle);
    };
    TPX_ASSIGN_OR_RETURN(const auto handles, List<uint32_t>(request, "list filters", parse));
    if (!handles.empty()) return true;
  }
  return false;
}

}  // namespace tpx::sys
