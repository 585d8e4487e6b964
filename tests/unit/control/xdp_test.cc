// SPDX-License-Identifier: Apache-2.0
#include "control/xdp.h"

#include <gmock/gmock.h>
#include <net/if_arp.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>

#include "control_lab.h"
#include "tpx/control/lifecycle.h"
#include "tpx/control/snapshot.h"

namespace tpx::control {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

using sys::LinkInfo;

LinkInfo Card(std::string kind, std::string bus) {
  return {.index = 3, .name = "eth1", .type = ARPHRD_ETHER, .kind = std::move(kind), .bus = std::move(bus)};
}

TEST(XdpLadder, AutomaticIsForNetworkCards) {
  for (const char* bus : {"pci", "usb", "platform"}) {
    EXPECT_THAT(LadderOf(policy::XdpMode::kAuto, Card("", bus), {}).rungs, ElementsAre(XdpPlace::kNative));
  }
  for (const LinkInfo& link : {Card("veth", ""), Card("bridge", ""), Card("", ""), Card("", "virtio"),
                               Card("", "vmbus"), Card("", "xen"), Card("bond", "")}) {
    const XdpLadder ladder = LadderOf(policy::XdpMode::kAuto, link, {});
    EXPECT_THAT(ladder.rungs, IsEmpty()) << link.kind << link.bus;
    EXPECT_FALSE(ladder.why.empty());
  }
}

TEST(XdpLadder, WhatIsAskedForIsTriedAnywhere) {
  for (const LinkInfo& link : {Card("veth", ""), Card("", "virtio"), Card("", "pci")}) {
    EXPECT_THAT(LadderOf(policy::XdpMode::kNative, link, {}).rungs,
                ElementsAre(XdpPlace::kNative, XdpPlace::kGeneric));
    EXPECT_THAT(LadderOf(policy::XdpMode::kGeneric, link, {}).rungs, ElementsAre(XdpPlace::kGeneric));
    EXPECT_THAT(LadderOf(policy::XdpMode::kOff, link, {}).rungs, IsEmpty());
  }
}

TEST(XdpLadder, NeverWhereFramesAreNotWhatTcSees) {
  const LinkInfo card = Card("", "pci");
  LinkInfo tunnel = card, port = card, vlan = Card("vlan", "");
  tunnel.type = ARPHRD_NONE;
  port.master = 9;
  vlan.index = 4;
  vlan.name = "eth1.7";
  vlan.lower = card.index;
  for (const policy::XdpMode asked :
       {policy::XdpMode::kAuto, policy::XdpMode::kNative, policy::XdpMode::kGeneric}) {
    EXPECT_THAT(LadderOf(asked, tunnel, {}).why, HasSubstr("Ethernet"));
    EXPECT_THAT(LadderOf(asked, port, {}).why, HasSubstr("port"));
    EXPECT_THAT(LadderOf(asked, card, {card, vlan}).why, HasSubstr("eth1.7"));
    for (const LinkInfo& link : {tunnel, port}) EXPECT_THAT(LadderOf(asked, link, {}).rungs, IsEmpty());
    EXPECT_THAT(LadderOf(asked, card, {card, vlan}).rungs, IsEmpty());
    vlan.lower = 5;
    EXPECT_FALSE(LadderOf(asked, card, {card, vlan}).rungs.empty()) << "another device's";
    vlan.lower = card.index;
  }
}

constexpr int kMaxSteps = 20;

class EarlyDropping : public ControlLab {
 protected:
  static policy::Config Dropping(policy::XdpMode mode) {
    policy::Config config = TestConfig();
    config.policy.rules.insert(config.policy.rules.begin(), {.name = "no", .action = TPX_ACTION_DROP});
    config.xdp = mode;
    return config;
  }
  std::vector<XdpPlace> Places() const {
    std::vector<XdpPlace> places;
    const auto snapshot = Snapshot(paths_);
    EXPECT_THAT(snapshot->problems, IsEmpty());
    for (const EarlyDropState& state : snapshot->early) {
      EXPECT_EQ(state.attached, state.early.place != XdpPlace::kNone) << state.early.device;
      places.push_back(state.early.place);
    }
    return places;
  }
  // Fails, or ends the process, at the n-th step that is about XDP.
  static Checkpoint AtXdpStep(int step, Fault fault, int* seen) {
    return [=](std::string_view doing) -> absl::Status {
      if (doing.find("XDP") == std::string_view::npos || (*seen)++ != step) return absl::OkStatus();
      if (fault == Fault::kExit) _exit(0);
      return absl::AbortedError("injected");
    };
  }
  static bool Kill(int step, const std::function<void(const Checkpoint&)>& work) {
    int seen = 0;
    const pid_t child = fork();
    if (child == 0) {
      work(AtXdpStep(step, Fault::kExit, &seen));
      _exit(1);
    }
    int status = 0;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
  }
};

TEST_F(EarlyDropping, IsOnTheLanDevicesAndGoesWithTheDetach) {
  const std::string before = Dump();
  for (const policy::XdpMode mode : {policy::XdpMode::kNative, policy::XdpMode::kGeneric}) {
    const auto report = Load(paths_, Dropping(mode), "");
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_THAT(Places(),
                ElementsAre(mode == policy::XdpMode::kNative ? XdpPlace::kNative : XdpPlace::kGeneric,
                            mode == policy::XdpMode::kNative ? XdpPlace::kNative : XdpPlace::kGeneric));
    EXPECT_NE(Dump(), before);
    ASSERT_TRUE(Detach(paths_).ok());
    EXPECT_EQ(Dump(), before);
  }
}

TEST_F(EarlyDropping, ALoadThatFailsOrIsKilledThereLeavesNothing) {
  const std::string before = Dump();
  for (int step = 0; step < kMaxSteps; ++step) {
    int seen = 0;
    const auto report =
        Load(paths_, Dropping(policy::XdpMode::kNative), "", AtXdpStep(step, Fault::kError, &seen));
    if (report.ok()) {
      EXPECT_EQ(step, 4) << "attaching and pinning on two devices";
      return;
    }
    ASSERT_EQ(Dump(), before) << "step " << step << ": " << report.status();
    ASSERT_TRUE(Kill(
        step, [&](const Checkpoint& at) { (void)Load(paths_, Dropping(policy::XdpMode::kNative), "", at); }));
    ASSERT_TRUE(Detach(paths_).ok());
    ASSERT_EQ(Dump(), before) << "step " << step;
  }
  FAIL() << "never loaded";
}

TEST_F(EarlyDropping, AReloadThatWasKilledThereIsFinishedByTheNext) {
  const std::string before = Dump();
  const policy::Config with = Dropping(policy::XdpMode::kNative);
  policy::Config without = TestConfig();
  for (const bool adds : {true, false}) {
    for (int step = 0; step < kMaxSteps; ++step) {
      ASSERT_TRUE(Load(paths_, adds ? without : with, "").ok());
      const policy::Config& next = adds ? with : without;
      const bool killed = Kill(step, [&](const Checkpoint& at) { (void)Reload(paths_, next, "", at); });
      if (step % 2 == 0) {
        const auto report = Reload(paths_, next, "");
        ASSERT_TRUE(report.ok()) << report.status();
        EXPECT_THAT(Places(), Each(adds ? XdpPlace::kNative : XdpPlace::kNone));
      }
      ASSERT_TRUE(Detach(paths_).ok());
      ASSERT_EQ(Dump(), before) << "step " << step;
      if (killed) continue;
      EXPECT_GT(step, 1);
      break;
    }
  }
}

TEST_F(EarlyDropping, AnUpgradeThatFailsThereKeepsTheOldProgram) {
  ASSERT_TRUE(Load(paths_, Dropping(policy::XdpMode::kNative), "").ok());
  const auto old = Snapshot(paths_)->early;
  for (int step = 0; step < 2; ++step) {
    int seen = 0;
    EXPECT_FALSE(Upgrade(paths_, AtXdpStep(step, Fault::kError, &seen)).ok());
    const auto now = Snapshot(paths_)->early;
    for (size_t i = 0; i < old.size(); ++i) EXPECT_EQ(now[i].program_id, old[i].program_id) << step;
  }
  ASSERT_TRUE(Upgrade(paths_).ok());
  const auto now = Snapshot(paths_)->early;
  ASSERT_THAT(now, SizeIs(2));
  for (size_t i = 0; i < old.size(); ++i) EXPECT_GT(now[i].program_id, old[i].program_id);
  EXPECT_THAT(Places(), Each(XdpPlace::kNative));
}

TEST_F(EarlyDropping, SaysWhyItHasNothingToDo) {
  struct Case {
    policy::Config config;
    const char* why;
  };
  policy::Config marked = Dropping(policy::XdpMode::kNative), penalised = TestConfig(),
                 nothing = Dropping(policy::XdpMode::kNative);
  marked.policy.rules[0].marks = {{1, 1}};
  nothing.policy.rules[0].matches_nothing = true;
  penalised.policy.rules[0].limit = {.per_second = 1, .burst = 1, .penalty_s = 1};
  for (const Case& c :
       {Case{TestConfig(), "no rule drops anything"}, Case{nothing, "no rule drops anything"},
        Case{marked, "asks for a mark"}, Case{Dropping(policy::XdpMode::kOff), "switched off"},
        Case{Dropping(policy::XdpMode::kAuto), "on a veth"}, Case{penalised, "on a veth"}}) {
    ASSERT_TRUE(Load(paths_, c.config, "").ok());
    const auto snapshot = Snapshot(paths_);
    ASSERT_THAT(snapshot->early, SizeIs(2));
    for (const EarlyDropState& state : snapshot->early) {
      EXPECT_EQ(state.early.place, XdpPlace::kNone);
      EXPECT_THAT(state.early.why, HasSubstr(c.why));
    }
    ASSERT_TRUE(Detach(paths_).ok());
  }
}

}  // namespace
}  // namespace tpx::control
