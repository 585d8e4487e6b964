// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <functional>

#include "control_lab.h"
#include "support/scale.h"
#include "tpx/base/strings.h"
#include "tpx/bpf/maps.h"
#include "tpx/control/lifecycle.h"
#include "tpx/control/snapshot.h"

namespace tpx::control {
namespace {

constexpr int kMaxSteps = 200;
// Every fifth where little is asked for: what follows a kill goes by the step modulo 2 and 3.
const int kStride = test::Scaled(10) < 10 ? 5 : 1;

class Crash : public ControlLab, public ::testing::WithParamInterface<policy::AttachMode> {
 protected:
  // The steps of a load before it attaches to devices are the same in every mode.
  static int FirstStep() { return GetParam() == policy::AttachMode::kTcx ? 0 : 14; }

  uint32_t CounterOf(const std::string& rule) const { return Snapshot(paths_)->rule_counters.at(rule); }
  void SetHits(const std::string& rule, uint64_t packets) const {
    const auto hits = bpf::OpenRuleHits(paths_.pins, bpf::Access::kReadWrite);
    EXPECT_TRUE(
        hits->Update(CounterOf(rule),
                     std::vector<tpx_count>(hits->cpus(), {.packets = packets, .bytes = 0, .by_xdp = 0}))
            .ok());
  }
  uint64_t Hits(const std::string& rule) const {
    const auto hits = bpf::OpenRuleHits(paths_.pins, bpf::Access::kReadOnly);
    return hits->Lookup(CounterOf(rule))->at(0).packets;
  }

  // Links to devices that are pinned, and filters.
  size_t Attached() const {
    const std::string list =
        Output(StrCat("ls ", paths_.pins, " 2>/dev/null | grep -E 'link_(lan|wan)_'; ",
                      "for dev in lan0 lan1 lan7 wan0 lan0p lan1p; do tc filter show dev $dev ingress "
                      "2>/dev/null | grep ' id '; done"));
    return static_cast<size_t>(std::count(list.begin(), list.end(), '\n'));
  }

  // Runs the work in a child that ends at the given step. False when it came through.
  static bool Kill(int step, const std::function<void(const Checkpoint&)>& work) {
    int seen = 0;
    const pid_t child = fork();
    if (child == 0) {
      work(FailAt(step, Fault::kExit, &seen));
      _exit(1);
    }
    int status = 0;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
  }
};
INSTANTIATE_TEST_SUITE_P(Modes, Crash,
                         ::testing::Values(policy::AttachMode::kTcx, policy::AttachMode::kClsact),
                         [](const auto& mode) {
                           return mode.param == policy::AttachMode::kTcx ? "tcx" : "clsact";
                         });

TEST_P(Crash, LoadThatFailsLeavesNothing) {
  const std::string before = Dump();
  for (int step = FirstStep(); step < kMaxSteps; step += 2 * kStride) {
    int seen = 0;
    const auto report = Load(paths_, TestConfig(GetParam()), "", FailAt(step, Fault::kError, &seen));
    if (report.ok()) {
      EXPECT_GT(step, 15);
      return;
    }
    EXPECT_THAT(std::string(report.status().message()), ::testing::HasSubstr("nothing is loaded"));
    ASSERT_EQ(Dump(), before) << "step " << step << ": " << report.status();
  }
  FAIL() << "never loaded";
}

TEST_P(Crash, DetachCleansUpAfterALoadThatWasKilledAtAnyStep) {
  const std::string before = Dump();
  for (int step = FirstStep(); step < kMaxSteps; step += kStride) {
    const bool killed =
        Kill(step, [&](const Checkpoint& at) { (void)Load(paths_, TestConfig(GetParam()), "", at); });
    const auto report = Detach(paths_);
    ASSERT_TRUE(report.ok()) << step << ": " << report.status();
    ASSERT_EQ(Dump(), before) << "step " << step;
    if (!killed) return;
  }
}

TEST_P(Crash, LoadCleansUpAfterALoadThatWasKilled) {
  const std::string before = Dump();
  for (int step = FirstStep(); step < kMaxSteps; step += 3 * kStride) {
    const bool killed =
        Kill(step, [&](const Checkpoint& at) { (void)Load(paths_, TestConfig(GetParam()), "", at); });
    const auto report = Load(paths_, TestConfig(GetParam()), "");
    ASSERT_TRUE(report.ok()) << step << ": " << report.status();
    EXPECT_EQ(report->already_loaded, !killed);
    ASSERT_THAT(Snapshot(paths_)->problems, ::testing::IsEmpty());
    ASSERT_TRUE(Detach(paths_).ok());
    ASSERT_EQ(Dump(), before) << "step " << step;
    if (!killed) return;
  }
}

TEST_P(Crash, DetachThatWasKilledAtAnyStepIsFinishedByTheNext) {
  const std::string before = Dump();
  for (int step = 0; step < kMaxSteps; step += kStride) {
    ASSERT_TRUE(Load(paths_, TestConfig(GetParam()), "").ok());
    const bool killed = Kill(step, [&](const Checkpoint& at) { (void)Detach(paths_, at); });
    const auto report = Detach(paths_);
    ASSERT_TRUE(report.ok()) << step << ": " << report.status();
    ASSERT_EQ(Dump(), before) << "step " << step;
    if (!killed) return;
  }
}

TEST_P(Crash, ReloadThatWasKilledAtAnyStepCanBeRepeatedAndDetached) {
  const std::string before = Dump();
  policy::Config next = TestConfig(GetParam());
  next.interfaces.lan = {"lan0", "lan1p"};
  next.policy.rules.insert(next.policy.rules.begin(), next.policy.rules[0]);
  next.policy.rules[0].name = "new";
  for (int step = 0; step < kMaxSteps; step += kStride) {
    ASSERT_TRUE(Load(paths_, TestConfig(GetParam()), "").ok());
    SetHits("web", 7);
    const bool killed = Kill(step, [&](const Checkpoint& at) { (void)Reload(paths_, next, "", at); });
    EXPECT_GE(Snapshot(paths_)->generation, 1U);
    EXPECT_EQ(Hits("web"), 7U) << step;
    if (step % 2 == 0) {
      const auto report = Reload(paths_, next, "");
      ASSERT_TRUE(report.ok()) << step << ": " << report.status();
      EXPECT_THAT(Snapshot(paths_)->problems, ::testing::IsEmpty());
      EXPECT_EQ(report->devices.size(), 3U);
      EXPECT_EQ(Hits("web"), 7U) << step;
      EXPECT_EQ(Hits("new"), 0U) << step;
    }
    ASSERT_TRUE(Detach(paths_).ok());
    ASSERT_EQ(Dump(), before) << "step " << step;
    if (!killed) return;
  }
}

// Of one device the name has changed, of another the role; two are new.
TEST_P(Crash, ReloadThatWasKilledWhileItFollowedDevicesLeavesNoneBehind) {
  const std::string before = Dump();
  const policy::Config first = TestConfig(GetParam());
  policy::Config next = first;
  next.interfaces = {.lan = {"lan7", "wan0", "lan0p", "lan1p"}, .wan = {"lan0"}};
  policy::Config back = first;
  back.interfaces.lan = {"lan0", "lan7"};
  for (int step = 0; step < kMaxSteps; step += kStride) {
    ASSERT_TRUE(Load(paths_, first, "").ok());
    Sh("ip link set lan1 name lan7");
    const bool killed = Kill(step, [&](const Checkpoint& at) { (void)Reload(paths_, next, "", at); });
    // Whether the next call goes on, goes back or takes everything away.
    if (step % 3 != 2) {
      const auto report = Reload(paths_, step % 3 == 0 ? next : back, "");
      ASSERT_TRUE(report.ok()) << step << ": " << report.status();
      EXPECT_THAT(Snapshot(paths_)->problems, ::testing::IsEmpty());
      EXPECT_EQ(report->devices.size(), step % 3 == 0 ? 5U : 3U);
      EXPECT_EQ(Attached(), report->devices.size()) << step;
    }
    ASSERT_TRUE(Detach(paths_).ok());
    Sh("ip link set lan7 name lan1");
    ASSERT_EQ(Dump(), before) << "step " << step;
    ASSERT_EQ(Attached(), 0U) << "step " << step;
    if (!killed) return;
  }
}

}  // namespace
}  // namespace tpx::control
