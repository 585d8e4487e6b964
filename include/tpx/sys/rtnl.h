// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tpx/base/address.h"
#include "tpx/base/unique_fd.h"

struct nlmsghdr;

namespace tpx::sys {

class RtnlRequest;

// The kernel keeps one table of policy rules and routes per address family.
enum class Family { kIpv4, kIpv6 };
inline constexpr Family kFamilies[] = {Family::kIpv4, Family::kIpv6};
std::string_view FamilyName(Family family);  // "IPv4", "IPv6"

// Owner tag (FRA_PROTOCOL, rtm_protocol) of everything that is ours.
inline constexpr uint8_t kRouteProtocol = 116;

// ip rule add iif IIF [from LOOPBACK] [fwmark MARK/MASK] lookup TABLE priority PRIORITY protocol 116
struct PolicyRule {
  Family family = Family::kIpv4;
  std::string iif;             // lo: what the machine itself sends
  bool from_loopback = false;  // only what has the family's loopback address as its source
  uint32_t mark = 0;
  uint32_t mask = 0;  // 0: whatever the mark
  uint32_t table = 0;
  uint32_t priority = 0;
  std::string ToString() const;
  friend bool operator==(const PolicyRule&, const PolicyRule&) = default;
};

// ip route add local default dev lo src LOOPBACK table TABLE protocol 116
// What the machine itself sends by it has the family's loopback address, unless it has one already.
struct LocalRoute {
  Family family = Family::kIpv4;
  uint32_t table = 0;
  std::string ToString() const;
  friend bool operator==(const LocalRoute&, const LocalRoute&) = default;
};

// Where an XDP program runs on a device.
enum class Xdp { kNone, kNative, kGeneric, kOther };

struct LinkInfo {
  int index = 0;
  std::string name;
  uint32_t flags = 0;  // IFF_*
  uint16_t type = 0;   // ARPHRD_*
  uint16_t vlan = 0;   // of a device for one VLAN of another; else 0
  std::string kind{};  // "veth"; empty for what a driver found
  std::string bus{};   // of the hardware behind it: "pci"; empty where there is none
  int lower = 0;       // index of the device that a VLAN, for example, is on
  int master = 0;      // index of the bridge or bond that it is a port of
  Xdp xdp = Xdp::kNone;
  uint32_t xdp_program = 0;  // 0 also where several run
  bool is_loopback() const;
  bool is_up() const;
};

struct AddressInfo {
  int index = 0;
  IpAddr addr;
  uint8_t prefix_length = 0;  // of the mapped address, 0 to 128
  std::optional<IpAddr> broadcast;
};

// A routing netlink socket of the network namespace of the calling thread.
// Errors carry the kernel's own explanation where it gives one. Adding what
// exists is kAlreadyExists, deleting what does not is kNotFound. A family that
// the kernel lacks has empty lists.
class Rtnl {
 public:
  static absl::StatusOr<Rtnl> Open();

  absl::Status AddRule(const PolicyRule& rule);
  absl::Status DeleteRule(const PolicyRule& rule);
  // Only those that carry our tag.
  absl::StatusOr<std::vector<PolicyRule>> ListRules();

  // Whether a rule of somebody else's may route a datagram that comes in otherwise than one that a socket
  // of ours sends with the same ends: by mark, device, user or tunnel.
  absl::StatusOr<bool> HasRulesByMore();

  absl::Status AddRoute(const LocalRoute& route);
  absl::Status DeleteRoute(const LocalRoute& route);
  // Local default routes of the table that carry our tag.
  absl::StatusOr<std::vector<LocalRoute>> ListRoutes(uint32_t table);

  absl::StatusOr<std::vector<LinkInfo>> ListLinks();
  absl::StatusOr<std::vector<AddressInfo>> ListAddresses();

  // Whether what comes in by the device has an Ethernet header; kNotFound where there is no such device.
  absl::StatusOr<bool> HasEthernetHeaders(int ifindex);
  // Whether the device has a clsact or ingress qdisc.
  absl::StatusOr<bool> HasIngressQdisc(int ifindex);
  // Whether any filter is left at either hook of a clsact qdisc.
  absl::StatusOr<bool> HasFilters(int ifindex);

 private:
  using Visitor = std::function<void(const nlmsghdr&)>;

  explicit Rtnl(UniqueFd fd) : fd_(std::move(fd)) {}
  absl::Status Send(nlmsghdr& request, std::string_view what);
  absl::Status Change(nlmsghdr& request, std::string_view what);
  // Calls visit for each message; starts again (after calling restart) when
  // the kernel says that the table changed meanwhile.
  absl::Status Dump(nlmsghdr& request, std::string_view what, const std::function<void()>& restart,
                    const Visitor& visit);
  // The entries that `parse` makes of the messages; it leaves one out with nullopt.
  template <typename T, typename Parse>
  absl::StatusOr<std::vector<T>> List(RtnlRequest& request, std::string_view what, Parse parse);
  absl::Status ReadDump(uint32_t sequence, std::string_view what, const Visitor& visit, bool* interrupted);

  UniqueFd fd_;
  uint32_t sequence_ = 0;
};

// Tells that devices or addresses of the namespace changed, not how.
class RtnlMonitor {
 public:
  struct Changes {
    bool links = false;
    bool addresses = false;
  };

  static absl::StatusOr<RtnlMonitor> Open();
  int fd() const { return fd_.get(); }  // readable when Drain has something to say
  // Reads all that is queued, never waits. An overrun counts as both changed.
  absl::StatusOr<Changes> Drain();

 private:
  explicit RtnlMonitor(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

}  // namespace tpx::sys
