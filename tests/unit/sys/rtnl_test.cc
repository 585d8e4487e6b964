// SPDX-License-Identifier: Apache-2.0
#include "tpx/sys/rtnl.h"

#include <gmock/gmock.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

namespace tpx::sys {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class RtnlTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0 || unshare(CLONE_NEWNET) != 0) {
      const char* require = getenv("TPX_REQUIRE_PRIV");
      if (require != nullptr && std::string(require) == "1") FAIL() << "cannot make a network namespace";
      GTEST_SKIP() << "needs root: cannot make a network namespace";
    }
    Sh("ip link set lo up; ip link add a0 type veth peer name b0; ip link set a0 up; ip link set b0 up");
    auto rtnl = Rtnl::Open();
    ASSERT_TRUE(rtnl.ok()) << rtnl.status();
    rtnl_.emplace(*std::move(rtnl));
  }
  static void Sh(const char* command) { EXPECT_EQ(system(command), 0) << command; }
  std::optional<Rtnl> rtnl_;
};

TEST_F(RtnlTest, RulesOfBothFamiliesComeAndGo) {
  for (Family family : kFamilies) {
    const PolicyRule rule{.family = family,
                          .iif = "a0",
                          .mark = 0x20000000,
                          .mask = 0x60000000,
                          .table = 2184,
                          .priority = 100};
    ASSERT_TRUE(rtnl_->AddRule(rule).ok());
    EXPECT_TRUE(absl::IsAlreadyExists(rtnl_->AddRule(rule)));
    EXPECT_THAT(*rtnl_->ListRules(), ElementsAre(rule));
    PolicyRule other = rule;
    other.mark = 0x40000000;
    EXPECT_TRUE(absl::IsNotFound(rtnl_->DeleteRule(other)));
    ASSERT_TRUE(rtnl_->DeleteRule(rule).ok());
    EXPECT_TRUE(absl::IsNotFound(rtnl_->DeleteRule(rule)));
    EXPECT_THAT(*rtnl_->ListRules(), IsEmpty());
  }
}

TEST_F(RtnlTest, RulesOfOthersAreNotListedNorDeleted) {
  Sh("ip rule add iif a0 fwmark 1/1 lookup 9 priority 100 protocol 4");
  EXPECT_THAT(*rtnl_->ListRules(), IsEmpty());
  EXPECT_TRUE(absl::IsNotFound(rtnl_->DeleteRule(
      {.family = Family::kIpv4, .iif = "a0", .mark = 1, .mask = 1, .table = 9, .priority = 100})));
}

TEST_F(RtnlTest, LocalRoutesOfBothFamiliesComeAndGo) {
  EXPECT_THAT(*rtnl_->ListRoutes(2184), IsEmpty());
  for (Family family : kFamilies) {
    const LocalRoute route{.family = family, .table = 2184};
    const auto status = rtnl_->AddRoute(route);
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_TRUE(absl::IsAlreadyExists(rtnl_->AddRoute(route)));
    EXPECT_THAT(*rtnl_->ListRoutes(2184), ElementsAre(route));
    ASSERT_TRUE(rtnl_->DeleteRoute(route).ok());
    EXPECT_TRUE(absl::IsNotFound(rtnl_->DeleteRoute(route)));
    EXPECT_THAT(*rtnl_->ListRoutes(2184), IsEmpty());
  }
}

TEST_F(RtnlTest, ErrorsCarryTheKernelsExplanation) {
  const absl::Status status =
      rtnl_->AddRule({.family = Family::kIpv4, .iif = std::string(20, 'x'), .table = 7});
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("("));
}

TEST_F(RtnlTest, LinksAndAddressesAreListed) {
  Sh("ip addr add 192.0.2.1/24 brd + dev a0; ip addr add 2001:db8::1/64 dev a0 nodad");
  const auto links = *rtnl_->ListLinks();
  const auto a0 = std::find_if(links.begin(), links.end(), [](const LinkInfo& l) { return l.name == "a0"; });
  ASSERT_NE(a0, links.end());
  EXPECT_TRUE(a0->is_up());
  EXPECT_FALSE(a0->is_loopback());
  EXPECT_EQ(a0->kind, "veth");
  EXPECT_EQ(a0->bus, "");
  EXPECT_EQ(a0->lower, static_cast<int>(if_nametoindex("b0")));
  EXPECT_EQ(a0->xdp, Xdp::kNone);
  bool v4 = false;
  bool v6 = false;
  const auto addresses = *rtnl_->ListAddresses();
  for (const AddressInfo& info : addresses) {
    if (info.addr == *IpAddr::Parse("192.0.2.1")) {
      v4 = info.prefix_length == 120 && info.index == a0->index &&
           info.broadcast == *IpAddr::Parse("192.0.2.255");
    }
    v6 |=
        info.addr == *IpAddr::Parse("2001:db8::1") && info.prefix_length == 64 && !info.broadcast.has_value();
  }
  EXPECT_TRUE(v4);
  EXPECT_TRUE(v6);
}

TEST_F(RtnlTest, EthernetHeadersAreOfDevicesThatHaveThem) {
  const auto has = [this](const char* device) {
    return rtnl_->HasEthernetHeaders(static_cast<int>(if_nametoindex(device)));
  };
  EXPECT_TRUE(*has("a0"));
  Sh("ip tuntap add t0 mode tun && ip tuntap add t1 mode tap");
  EXPECT_FALSE(*has("t0"));
  EXPECT_TRUE(*has("t1"));
  EXPECT_TRUE(absl::IsNotFound(rtnl_->HasEthernetHeaders(9999).status()));
}

TEST_F(RtnlTest, QdiscsAndFiltersAreSeen) {
  const auto links = *rtnl_->ListLinks();
  const auto a0 = std::find_if(links.begin(), links.end(), [](const LinkInfo& l) { return l.name == "a0"; });
  EXPECT_FALSE(*rtnl_->HasIngressQdisc(a0->index));
  Sh("tc qdisc add dev a0 clsact");
  EXPECT_TRUE(*rtnl_->HasIngressQdisc(a0->index));
  EXPECT_FALSE(*rtnl_->HasFilters(a0->index));
  Sh("tc filter add dev a0 egress prio 1 protocol all bpf bytecode '1,6 0 0 0' classid 1:1");
  EXPECT_TRUE(*rtnl_->HasFilters(a0->index));
}

TEST_F(RtnlTest, MonitorTellsLinksFromAddresses) {
  auto monitor = RtnlMonitor::Open();
  ASSERT_TRUE(monitor.ok());
  const auto quiet = monitor->Drain();
  EXPECT_FALSE(quiet->links || quiet->addresses);
  Sh("ip addr add 192.0.2.1/32 dev lo");
  pollfd ready{monitor->fd(), POLLIN, 0};
  EXPECT_EQ(poll(&ready, 1, 1000), 1);
  auto changes = monitor->Drain();
  EXPECT_TRUE(changes->addresses);
  EXPECT_FALSE(changes->links);
  Sh("ip link add c0 type veth peer name d0");
  EXPECT_TRUE(monitor->Drain()->links);
}

}  // namespace
}  // namespace tpx::sys
