// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>

#include "control_lab.h"
#include "tpx/bpf/pin_dir.h"
#include "tpx/control/lifecycle.h"
#include "tpx/control/snapshot.h"

namespace tpx::control {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class Upgrading : public ControlLab, public ::testing::WithParamInterface<policy::AttachMode> {
 protected:
  // Ids of the attached programs: sk_lookup's, then the devices'.
  std::vector<uint32_t> Programs() const {
    const auto snapshot = Snapshot(paths_);
    EXPECT_THAT(snapshot->problems, IsEmpty());
    std::vector<uint32_t> ids = {snapshot->sk_lookup_program_id};
    for (const DeviceState& device : snapshot->devices) ids.push_back(device.program_id);
    return ids;
  }
};
INSTANTIATE_TEST_SUITE_P(Modes, Upgrading,
                         ::testing::Values(policy::AttachMode::kTcx, policy::AttachMode::kClsact),
                         [](const auto& mode) {
                           return mode.param == policy::AttachMode::kTcx ? "tcx" : "clsact";
                         });

TEST_P(Upgrading, NeedsSomethingLoaded) {
  const std::string before = Dump();
  EXPECT_THAT(std::string(Upgrade(paths_).status().message()), HasSubstr("nothing is loaded"));
  EXPECT_EQ(Dump(), before);
}

TEST_P(Upgrading, ReplacesEveryProgramAndKeepsTheRest) {
  const std::string before = Dump();
  ASSERT_TRUE(Load(paths_, TestConfig(GetParam()), "").ok());
  const std::vector<uint32_t> old = Programs();
  const std::string pins = Output("ls " + paths_.pins);
  for (int turn = 0; turn < 3; ++turn) {
    const auto report = Upgrade(paths_);
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_THAT(Programs(), AllOf(::testing::SizeIs(old.size()), Each(::testing::Gt(old.back()))));
    EXPECT_EQ(Snapshot(paths_)->generation, 1U);
    EXPECT_EQ(Output("ls " + paths_.pins), pins);
    EXPECT_FALSE(bpf::Exists(bpf::StageDir(paths_.pins)));
  }
  ASSERT_TRUE(Detach(paths_).ok());
  EXPECT_EQ(Dump(), before);
}

TEST_P(Upgrading, FailureBeforeTheEndPutsTheOldProgramsBack) {
  ASSERT_TRUE(Load(paths_, TestConfig(GetParam()), "").ok());
  const std::vector<uint32_t> old = Programs();
  const std::string before = Dump();
  for (int step = 0; step < 50; ++step) {
    int seen = 0;
    const auto report = Upgrade(paths_, FailAt(step, Fault::kError, &seen));
    if (!report.ok() &&
        !AnyLineHas({std::string(report.status().message())}, "attached, run upgrade again")) {
      ASSERT_EQ(Programs(), old) << "step " << step << ": " << report.status();
      ASSERT_EQ(Dump(), before) << "step " << step;
      continue;
    }
    EXPECT_GT(step, 5);
    EXPECT_NE(Programs(), old);
    return;
  }
  FAIL() << "never replaced";
}

TEST_P(Upgrading, KilledAtAnyStepItCanBeRunAgainOrDetached) {
  const std::string before = Dump();
  for (int step = 0; step < 50; ++step) {
    ASSERT_TRUE(Load(paths_, TestConfig(GetParam()), "").ok());
    const pid_t child = fork();
    if (child == 0) {
      int seen = 0;
      (void)Upgrade(paths_, FailAt(step, Fault::kExit, &seen));
      _exit(1);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_THAT(Snapshot(paths_)->problems, IsEmpty()) << "step " << step;
    if (step % 2 == 0) {
      ASSERT_TRUE(Upgrade(paths_).ok());
    }
    ASSERT_TRUE(Detach(paths_).ok());
    ASSERT_EQ(Dump(), before) << "step " << step;
    if (WEXITSTATUS(status) == 1) return;
  }
  FAIL() << "never came through";
}

TEST_P(Upgrading, MapsOfAnotherLayoutAreRefused) {
  ASSERT_TRUE(Load(paths_, TestConfig(GetParam()), "").ok());
  const std::vector<uint32_t> old = Programs();
  const std::string pin = paths_.pins + "/tpx_guard";
  Sh("rm " + pin + " && bpftool map create " + pin + " type array key 4 value 8 entries 3 name stale");
  EXPECT_THAT(std::string(Upgrade(paths_).status().message()), HasSubstr("tpx_guard"));
  EXPECT_EQ(Programs(), old);
  Sh("rm " + pin);
  EXPECT_THAT(std::string(Upgrade(paths_).status().message()), HasSubstr("there is no pin"));
  EXPECT_EQ(Programs(), old);
}

}  // namespace
}  // namespace tpx::control
