// SPDX-License-Identifier: Apache-2.0
#include "tpx/control/attached.h"

#include <gmock/gmock.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "control_lab.h"
#include "tpx/bpf/maps.h"
#include "tpx/control/snapshot.h"

namespace tpx::control {
namespace {

using ::testing::IsEmpty;

class AttachedTest : public ControlLab {
 protected:
  void LoadPatterns(policy::AttachMode mode = policy::AttachMode::kAuto) {
    policy::Config config = TestConfig(mode);
    config.interfaces = {.lan = {"lan[0-9]"}, .wan = {"wan0"}};
    ASSERT_TRUE(Load(paths_, config, "").ok());
  }
};

// 0 where the programs know none.
uint32_t RoleOf(const Paths& paths, const std::string& device) {
  const auto devices = bpf::OpenDevices(paths.pins, bpf::Access::kReadOnly);
  return devices.ok() ? devices->Lookup(if_nametoindex(device.c_str())).value_or(0) : 0;
}

UniqueFd Listener() {
  UniqueFd fd(socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
  listen(fd.get(), 1);
  return fd;
}

TEST_F(AttachedTest, NeedsSomethingLoaded) { EXPECT_FALSE(Attached::Open(paths_).ok()); }

TEST_F(AttachedTest, SharesWorkersAndControlWithTheMaps) {
  LoadPatterns();
  auto attached = Attached::Open(paths_);
  ASSERT_TRUE(attached.ok()) << attached.status();
  attached->worker(3)->deadline_ns = 42;
  attached->SetProxy({.workers = 2, .port = 4000, .udp_flow_s = 120});
  const auto workers = bpf::OpenWorkers(paths_.pins, bpf::Access::kReadOnly);
  const auto control = bpf::OpenControl(paths_.pins, bpf::Access::kReadOnly);
  ASSERT_TRUE(workers.ok() && control.ok());
  EXPECT_EQ((*workers)[3].deadline_ns, 42U);
  EXPECT_EQ((*control)[0].n_workers, 2U);
  EXPECT_EQ((*control)[0].listen_port, 4000U);
  EXPECT_EQ((*control)[0].udp_flow_s, 120U);
  EXPECT_EQ((*control)[0].abi_version, uint32_t{TPX_ABI_VERSION});
}

TEST_F(AttachedTest, RemovesOnlyItsOwnListeners) {
  LoadPatterns();
  auto old = Attached::Open(paths_);
  auto fresh = Attached::Open(paths_);
  ASSERT_TRUE(old.ok() && fresh.ok());
  const UniqueFd first = Listener();
  const UniqueFd second = Listener();
  ASSERT_TRUE(old->SetListener(0, TPX_LISTENER_TCP_MASQUERADE, first.get()).ok());
  ASSERT_TRUE(old->SetListener(1, TPX_LISTENER_UDP_PAIR, first.get()).ok());
  old->SetProxy({.workers = 2, .port = 1000, .udp_flow_s = 60});
  ASSERT_TRUE(fresh->SetListener(0, TPX_LISTENER_TCP_MASQUERADE, second.get()).ok());
  fresh->SetProxy({.workers = 1, .port = 2000, .udp_flow_s = 70});
  old->RemoveListeners();
  const auto listeners = bpf::OpenListeners(paths_.pins, bpf::Access::kReadWrite);
  const auto control = bpf::OpenControl(paths_.pins, bpf::Access::kReadOnly);
  EXPECT_TRUE(listeners->Lookup(TPX_LISTENER(0, TPX_LISTENER_TCP_MASQUERADE)).ok());
  EXPECT_FALSE(listeners->Lookup(TPX_LISTENER(1, TPX_LISTENER_UDP_PAIR)).ok());
  EXPECT_EQ((*control)[0].listen_port, 2000U);
  fresh->RemoveListeners();
  EXPECT_FALSE(listeners->Lookup(TPX_LISTENER(0, TPX_LISTENER_TCP_MASQUERADE)).ok());
  EXPECT_EQ((*control)[0].listen_port, 0U);
  EXPECT_EQ((*control)[0].udp_flow_s, 70U) << "the flows that are remembered keep their time";
}

TEST_F(AttachedTest, ReconcileOfAnUnchangedMachineDoesNothing) {
  LoadPatterns();
  const std::string before = Dump();
  auto attached = Attached::Open(paths_);
  const auto lines = attached->ReconcileDevices();
  ASSERT_TRUE(lines.ok()) << lines.status();
  EXPECT_THAT(*lines, IsEmpty());
  EXPECT_EQ(Dump(), before);
}

TEST_F(AttachedTest, FollowsDevicesThatComeGoAndChangeTheirNames) {
  for (auto mode : {policy::AttachMode::kTcx, policy::AttachMode::kClsact}) {
    const std::string before = Dump();
    LoadPatterns(mode);
    auto attached = Attached::Open(paths_);
    ASSERT_TRUE(attached.ok());
    Sh("ip link add lan5 type veth peer name lan5p");
    auto lines = attached->ReconcileDevices();
    ASSERT_TRUE(lines.ok()) << lines.status();
    EXPECT_TRUE(AnyLineHas(*lines, "attached to lan device lan5"));
    EXPECT_THAT(Snapshot(paths_)->problems, IsEmpty());

    Sh("ip link set lan5 name lan6");
    lines = attached->ReconcileDevices();
    ASSERT_TRUE(lines.ok()) << lines.status();
    EXPECT_EQ(*lines, std::vector<std::string>{"lan device lan5 is lan6 now"});
    EXPECT_THAT(Snapshot(paths_)->problems, IsEmpty());

    Sh("ip link del lan6; ip link add lan6 type veth peer name lan6p");
    lines = attached->ReconcileDevices();
    ASSERT_TRUE(lines.ok()) << lines.status();
    EXPECT_THAT(Snapshot(paths_)->problems, IsEmpty());
    EXPECT_EQ(Snapshot(paths_)->devices.size(), 4U);

    Sh("ip link del lan6");
    ASSERT_TRUE(attached->ReconcileDevices().ok());
    EXPECT_EQ(Snapshot(paths_)->devices.size(), 3U);
    EXPECT_EQ(Output("ip rule").find("lan6"), std::string::npos);
    ASSERT_TRUE(Detach(paths_).ok());
    EXPECT_EQ(Dump(), before);
  }
}

TEST_F(AttachedTest, TheProgramsKnowTheRolesOfTheDevices) {
  for (auto mode : {policy::AttachMode::kTcx, policy::AttachMode::kClsact}) {
    LoadPatterns(mode);
    EXPECT_EQ(RoleOf(paths_, "lan0"), TPX_ROLE_LAN);
    EXPECT_EQ(RoleOf(paths_, "wan0"), TPX_ROLE_WAN);
    auto attached = Attached::Open(paths_);
    Sh("ip link set lan1 name lan7");
    ASSERT_TRUE(attached->ReconcileDevices().ok());
    EXPECT_EQ(RoleOf(paths_, "lan7"), TPX_ROLE_LAN);

    policy::Config config = TestConfig(mode);
    config.interfaces = {.lan = {"wan0"}, .wan = {"lan0"}};
    ASSERT_TRUE(Reload(paths_, config, "").ok());
    EXPECT_EQ(RoleOf(paths_, "wan0"), TPX_ROLE_LAN);
    EXPECT_EQ(RoleOf(paths_, "lan0"), TPX_ROLE_WAN);
    EXPECT_EQ(RoleOf(paths_, "lan7"), 0U);
    ASSERT_TRUE(Detach(paths_).ok());
    Sh("ip link set lan7 name lan1");
  }
}

TEST_F(AttachedTest, RepairsRulesAndRoutes) {
  LoadPatterns();
  auto attached = Attached::Open(paths_);
  Sh("ip rule del iif lan1 pref 100; ip route flush table 2184");
  const auto lines = attached->ReconcileDevices();
  ASSERT_TRUE(lines.ok()) << lines.status();
  EXPECT_EQ(lines->size(), 2U);
  EXPECT_THAT(Snapshot(paths_)->problems, IsEmpty());
}

TEST_F(AttachedTest, RefreshFollowsAddresses) {
  LoadPatterns();
  auto attached = Attached::Open(paths_);
  const auto local = bpf::OpenLocal(paths_.pins, bpf::Access::kReadOnly);
  Sh("ip addr add 203.0.113.9/32 dev lan1; ip addr del 192.0.2.1/24 dev lan0");
  ASSERT_TRUE(attached->RefreshLocalAddresses().ok());
  EXPECT_TRUE(local->Lookup(IpAddr::Parse("203.0.113.9")->raw).ok());
  EXPECT_FALSE(local->Lookup(IpAddr::Parse("192.0.2.1")->raw).ok());
  EXPECT_FALSE(local->Lookup(IpAddr::Parse("192.0.2.255")->raw).ok());
}

TEST_F(AttachedTest, NoticesADetach) {
  LoadPatterns();
  auto attached = Attached::Open(paths_);
  EXPECT_TRUE(attached->StillPinned());
  EXPECT_TRUE(attached->HasLanDevice());
  ASSERT_TRUE(Detach(paths_).ok());
  const std::string after = Dump();
  EXPECT_FALSE(attached->StillPinned());
  EXPECT_FALSE(attached->HasLanDevice());
  EXPECT_FALSE(attached->ReconcileDevices().ok());
  EXPECT_EQ(Dump(), after);
  LoadPatterns();
  EXPECT_FALSE(attached->StillPinned());
}

TEST_F(AttachedTest, MissesLanDevicesThatAreGone) {
  LoadPatterns();
  auto attached = Attached::Open(paths_);
  Sh("ip link del lan0; ip link del lan1");
  EXPECT_FALSE(attached->HasLanDevice());
}

}  // namespace
}  // namespace tpx::control
