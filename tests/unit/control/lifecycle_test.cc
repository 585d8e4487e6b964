// SPDX-License-Identifier: Apache-2.0
#include "tpx/control/lifecycle.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sched.h>
#include <sys/stat.h>

#include <fstream>
#include <thread>

#include "control/state.h"
#include "control_lab.h"
#include "tpx/base/strings.h"
#include "tpx/bpf/maps.h"
#include "tpx/control/snapshot.h"
#include "tpx/sys/file_lock.h"

namespace tpx::control {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr char kForeignFilter[] = "bpf bytecode '1,6 0 0 0' classid 1:1";

class Lifecycle : public ControlLab, public ::testing::WithParamInterface<policy::AttachMode> {};
INSTANTIATE_TEST_SUITE_P(Modes, Lifecycle,
                         ::testing::Values(policy::AttachMode::kTcx, policy::AttachMode::kClsact),
                         [](const auto& mode) {
                           return mode.param == policy::AttachMode::kTcx ? "tcx" : "clsact";
                         });

class LoadTest : public ControlLab {};

TEST_P(Lifecycle, DetachLeavesTheMachineAsItWas) {
  const std::string before = Dump();
  const auto report = Load(paths_, TestConfig(GetParam()), "text");
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_FALSE(report->already_loaded);
  EXPECT_EQ(report->devices.size(), 3U);
  EXPECT_EQ(report->rules.size(), 6U);
  EXPECT_EQ(report->routes.size(), 2U);
  EXPECT_NE(Dump(), before);

  const auto snapshot = Snapshot(paths_);
  ASSERT_TRUE(snapshot.ok()) << snapshot.status();
  EXPECT_TRUE(snapshot->loaded);
  EXPECT_THAT(snapshot->problems, IsEmpty());
  EXPECT_EQ(snapshot->generation, 1U);
  EXPECT_EQ(snapshot->config_text, "text");
  EXPECT_TRUE(snapshot->sk_lookup_attached);
  EXPECT_EQ(snapshot->rule_counters, (std::map<std::string, uint32_t>{{"web", 0}, {"default", 1}}));
  for (const DeviceState& device : snapshot->devices) EXPECT_TRUE(device.attached) << device.device.name;

  const auto detached = Detach(paths_);
  ASSERT_TRUE(detached.ok()) << detached.status();
  EXPECT_TRUE(detached->was_loaded);
  EXPECT_EQ(Dump(), before);
}

TEST_P(Lifecycle, FiltersAndQdiscsOfOthersStay) {
  Sh("tc qdisc add dev lan0 clsact");
  Sh(StrCat("tc filter add dev lan0 ingress prio 1 protocol all ", kForeignFilter));
  Sh(StrCat("tc filter add dev lan0 ingress prio 2 protocol all ", kForeignFilter));
  const std::string before = Dump();
  ASSERT_TRUE(Load(paths_, TestConfig(GetParam()), "").ok());
  EXPECT_THAT(Output("tc filter show dev lan0 ingress"), HasSubstr("bytecode"));
  const auto snapshot = Snapshot(paths_);
  ASSERT_TRUE(snapshot.ok());
  EXPECT_THAT(snapshot->problems, IsEmpty());
  ASSERT_TRUE(Detach(paths_).ok());
  EXPECT_EQ(Dump(), before);
}

TEST_F(LoadTest, QdiscThatOthersUseByNowStays) {
  ASSERT_TRUE(Load(paths_, TestConfig(policy::AttachMode::kClsact), "").ok());
  Sh(StrCat("tc filter add dev lan0 egress prio 7 protocol all ", kForeignFilter));
  const auto detached = Detach(paths_);
  ASSERT_TRUE(detached.ok());
  EXPECT_TRUE(AnyLineHas(detached->lines, "left the clsact qdisc of lan0"));
  EXPECT_THAT(Output("tc filter show dev lan0 egress"), HasSubstr("bytecode"));
  EXPECT_EQ(Output("tc filter show dev lan0 ingress"), "");
  EXPECT_THAT(Output("tc qdisc show dev lan1"), ::testing::Not(HasSubstr("clsact")));
}

TEST_F(LoadTest, DetachOfNothingSaysSo) {
  const std::string before = Dump();
  for (int i = 0; i < 2; ++i) {
    const auto report = Detach(paths_);
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_FALSE(report->was_loaded);
    EXPECT_EQ(report->lines, std::vector<std::string>{"nothing to detach"});
  }
  EXPECT_EQ(Dump(), before);
}

TEST_F(LoadTest, SecondLoadChangesNothingAndSaysAlready) {
  ASSERT_TRUE(Load(paths_, TestConfig(), "a").ok());
  const std::string before = Dump();
  const auto again = Load(paths_, TestConfig(), "b");
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE(again->already_loaded);
  EXPECT_TRUE(AnyLineHas(again->lines, "already loaded"));
  EXPECT_TRUE(AnyLineHas(again->lines, "reload"));
  EXPECT_EQ(Dump(), before);
}

TEST_F(LoadTest, ConcurrentLoadsLoadOnce) {
  constexpr int kThreads = 4;
  std::vector<std::thread> threads;
  std::vector<absl::StatusOr<LoadReport>> reports(kThreads, absl::UnknownError("not run"));
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] { reports[static_cast<size_t>(i)] = Load(paths_, TestConfig(), ""); });
  }
  for (std::thread& thread : threads) thread.join();
  int fresh = 0;
  for (const auto& report : reports) {
    ASSERT_TRUE(report.ok()) << report.status();
    fresh += report->already_loaded ? 0 : 1;
  }
  EXPECT_EQ(fresh, 1);
}

TEST_F(LoadTest, SecondInstanceInTheNamespaceIsRefused) {
  ASSERT_TRUE(Load(paths_, TestConfig(), "").ok());
  const std::string before = Dump();
  const Paths other{.pins = paths_.pins + "2", .state = paths_.state + "2"};
  const auto report = Load(other, TestConfig(), "");
  EXPECT_THAT(std::string(report.status().message()), HasSubstr("another instance"));
  const auto detached = Detach(other);
  ASSERT_TRUE(detached.ok());
  EXPECT_FALSE(detached->was_loaded);
  EXPECT_EQ(Dump(), before);
}

TEST_F(LoadTest, UnknownInterfaceNamesSimilarOnesAndChangesNothing) {
  const std::string before = Dump();
  policy::Config config = TestConfig();
  config.interfaces.lan = {"lan7"};
  const auto report = Load(paths_, config, "");
  ASSERT_FALSE(report.ok());
  EXPECT_THAT(std::string(report.status().message()),
              HasSubstr("no interface 'lan7'; similar: lan0, lan0p, lan1"));
  EXPECT_EQ(Dump(), before);
}

TEST_F(LoadTest, PatternWithoutADeviceIsAWarning) {
  policy::Config config = TestConfig();
  config.interfaces.lan = {"lan0", "tap*"};
  const auto report = Load(paths_, config, "");
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_TRUE(AnyLineHas(report->lines, "no interface matches 'tap*'"));
}

TEST_F(LoadTest, PlanChangesNothing) {
  const std::string before = Dump();
  const auto plan = PlanLoad(paths_, TestConfig());
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->devices.size(), 3U);
  EXPECT_EQ(Dump(), before);
}

TEST_F(LoadTest, LoopbackThatIsDownIsNamed) {
  Sh("ip link set lo down");
  const auto report = Load(paths_, TestConfig(), "");
  EXPECT_THAT(std::string(report.status().message()), HasSubstr("ip link set lo up"));
}

TEST_F(LoadTest, DisabledIpv6IsLeftOut) {
  Sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=1");
  const std::string before = Dump();
  const auto report = Load(paths_, TestConfig(), "");
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_TRUE(AnyLineHas(report->lines, "IPv6 is disabled"));
  EXPECT_EQ(report->rules.size(), 3U);
  ASSERT_TRUE(Detach(paths_).ok());
  EXPECT_EQ(Dump(), before);
}

TEST_F(LoadTest, RouteLocalnetOnALanDeviceIsWarnedOf) {
  Sh("sysctl -qw net.ipv4.conf.lan1.route_localnet=1");
  const auto report = Load(paths_, TestConfig(), "");
  ASSERT_TRUE(report.ok());
  EXPECT_TRUE(AnyLineHas(report->lines, "route_localnet is on for lan1"));
}

TEST_F(LoadTest, PinsOfAnotherVersionAreReplaced) {
  ASSERT_TRUE(Load(paths_, TestConfig(), "").ok());
  auto state = ReadState(paths_);
  ASSERT_TRUE(state.ok());
  state->abi_version = TPX_ABI_VERSION + 1;
  ASSERT_TRUE(WriteState(paths_, *state).ok());
  const auto report = Load(paths_, TestConfig(), "");
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_FALSE(report->already_loaded);
  EXPECT_TRUE(AnyLineHas(report->lines, "another version"));
}

TEST_F(LoadTest, PinsWithoutStateAreReplaced) {
  ASSERT_TRUE(Load(paths_, TestConfig(), "").ok());
  Sh(StrCat("rm -r ", paths_.state));
  const auto report = Load(paths_, TestConfig(), "");
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_FALSE(report->already_loaded);
  ASSERT_TRUE(Detach(paths_).ok());
  EXPECT_EQ(Output("ip rule; ip -6 rule").find("2184"), std::string::npos);
}

TEST_F(LoadTest, DetachWithoutStateRemovesAll) {
  const std::string rules = Output("ip rule; ip -6 rule; ip route show table all");
  ASSERT_TRUE(Load(paths_, TestConfig(), "").ok());
  Sh(StrCat("rm -r ", paths_.state));
  ASSERT_TRUE(Detach(paths_).ok());
  EXPECT_EQ(Output("ip rule; ip -6 rule; ip route show table all"), rules);
}

TEST_F(LoadTest, BrokenAttachmentIsLoadedAgain) {
  ASSERT_TRUE(Load(paths_, TestConfig(policy::AttachMode::kTcx), "").ok());
  Sh(StrCat("rm ", paths_.pins, "/link_lan_*"));
  const auto report = Load(paths_, TestConfig(policy::AttachMode::kTcx), "");
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_FALSE(report->already_loaded);
  EXPECT_TRUE(AnyLineHas(report->lines, "is not attached"));
}

TEST_F(LoadTest, PinsAreClosedToOthers) {
  ASSERT_TRUE(Load(paths_, TestConfig(), "").ok());
  EXPECT_EQ(Output(StrCat("stat -c %a ", paths_.pins)), "700\n");
  EXPECT_EQ(Output(StrCat("stat -c %a ", paths_.pins, "/* | sort -u")), "600\n");
  Sh(StrCat("chmod 0755 ", paths_.pins));
  const auto again = Load(paths_, TestConfig(), "");
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(Output(StrCat("stat -c %a ", paths_.pins)), "700\n");
}

TEST_F(LoadTest, RootThatOthersMayWriteIsRefusedAndAStickyOneNoted) {
  Sh(StrCat("mount -t bpf bpf ", dir_, "/bpf; chmod 0777 ", dir_, "/bpf"));
  const auto refused = Load(paths_, TestConfig(), "");
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kPermissionDenied);
  Sh(StrCat("chmod 1777 ", dir_, "/bpf"));
  const auto report = Load(paths_, TestConfig(), "");
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_TRUE(AnyLineHas(report->lines, "mode 1777"));
}

TEST_F(LoadTest, DirectoryWithFilesIsNotMountedOver) {
  Sh(StrCat("touch ", dir_, "/bpf/file"));
  const std::string before = Dump();
  EXPECT_FALSE(Load(paths_, TestConfig(), "").ok());
  EXPECT_EQ(Dump(), before);
}

TEST_F(LoadTest, OwnAddressesAndBroadcastsAreStored) {
  ASSERT_TRUE(Load(paths_, TestConfig(), "").ok());
  const auto local = bpf::OpenLocal(paths_.pins, bpf::Access::kReadOnly);
  ASSERT_TRUE(local.ok());
  for (const char* address : {"192.0.2.1", "2001:db8::1", "127.0.0.1", "::1"}) {
    EXPECT_EQ(local->Lookup(IpAddr::Parse(address)->raw).value_or(0), uint32_t{TPX_LOCAL_ADDRESS}) << address;
  }
  EXPECT_EQ(local->Lookup(IpAddr::Parse("192.0.2.255")->raw).value_or(0), uint32_t{TPX_LOCAL_BROADCAST});
}

TEST_F(LoadTest, StoredConfigurationComesBack) {
  EXPECT_TRUE(absl::IsNotFound(LoadedConfig(paths_).status()));
  ASSERT_TRUE(Load(paths_, TestConfig(), "the text").ok());
  const auto stored = LoadedConfig(paths_);
  ASSERT_TRUE(stored.ok()) << stored.status();
  EXPECT_EQ(stored->text, "the text");
  EXPECT_EQ(stored->config, TestConfig());
}

TEST_F(LoadTest, SnapshotNamesWhatIsMissing) {
  ASSERT_TRUE(Load(paths_, TestConfig(), "").ok());
  Sh("ip rule del iif lan1 pref 100");
  Sh("ip route flush table 2184");
  const auto snapshot = Snapshot(paths_);
  ASSERT_TRUE(snapshot.ok());
  EXPECT_TRUE(AnyLineHas(snapshot->problems, "missing: IPv4 rule 100: iif lan1"));
  EXPECT_TRUE(AnyLineHas(snapshot->problems, "missing: IPv4 route local default"));
}

TEST_F(LoadTest, DetachElsewhereIsRefusedWhileTheNamespaceLives) {
  ASSERT_TRUE(Load(paths_, TestConfig(), "").ok());
  const int home = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
  ASSERT_EQ(unshare(CLONE_NEWNET), 0);
  const auto refused = Detach(paths_);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("nsenter --net="));
  const auto load = Load(paths_, TestConfig(), "");
  EXPECT_FALSE(load.ok());
  ASSERT_EQ(setns(home, CLONE_NEWNET), 0);
  close(home);
  EXPECT_TRUE(Snapshot(paths_)->problems.empty());
  EXPECT_TRUE(Detach(paths_).ok());
}

TEST_F(LoadTest, DetachReportsTheProcessThatServes) {
  ASSERT_TRUE(Load(paths_, TestConfig(), "").ok());
  const auto lock = sys::FileLock::Acquire(paths_.state + "/run.lock", std::chrono::milliseconds(0));
  ASSERT_TRUE(lock.ok());
  std::ofstream(paths_.state + "/run.lock") << "1\n";  // another process, so to say
  EXPECT_EQ(Snapshot(paths_)->runner, 1);
  const auto detached = Detach(paths_);
  ASSERT_TRUE(detached.ok());
  EXPECT_TRUE(AnyLineHas(detached->lines, "process 1 still runs"));
  EXPECT_EQ(Output(StrCat("ls ", paths_.state)), "run.lock\n");
}

}  // namespace
}  // namespace tpx::control
