// SPDX-License-Identifier: Apache-2.0
#include "control/state.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "control/instance.h"

namespace tpx::control {
namespace {

class StateTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/tpx-state-XXXXXX";
    paths_.state = mkdtemp(pattern);
  }
  void TearDown() override { EXPECT_EQ(system(("rm -r " + paths_.state).c_str()), 0); }
  Paths paths_;
};

TEST_F(StateTest, StateSurvivesTheWayThroughTheFile) {
  const State state{.abi_version = 3,
                    .netns = 4026531840,
                    .families = {sys::Family::kIpv4, sys::Family::kIpv6},
                    .mode = Mode::kClsact,
                    .steering = {.steer_mark = 5},
                    .interfaces = {.lan = {"a"}, .wan = {"b*"}},
                    .local = {.enabled = true, .cgroup = "/a"},
                    .devices = {{"a", 4, Role::kLan, Mode::kTcx, 0}, {"b1", 5, Role::kWan, Mode::kClsact, 2}},
                    .xdp = policy::XdpMode::kGeneric,
                    .xdp_idle = "no reason",
                    .early = {{.device = "a",
                               .ifindex = 4,
                               .place = XdpPlace::kNative,
                               .why = "so",
                               .asked = policy::XdpMode::kOff,
                               .failed = true,
                               .dispatched = true}},
                    .build = "0123456789abcdef",
                    .rule_counters = {{7, {{"x", 0}, {"default", 1}}}, {8, {{"default", 1}}}}};
  ASSERT_TRUE(WriteState(paths_, state).ok());
  const auto back = ReadState(paths_);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(*back, state);
}

TEST_F(StateTest, MissingAndDamagedFilesDiffer) {
  EXPECT_TRUE(absl::IsNotFound(ReadState(paths_).status()));
  for (const char* text : {"", "{", "[]", "{\"netns\": \"x\"}"}) {
    std::ofstream(StatePath(paths_)) << text;
    EXPECT_EQ(ReadState(paths_).status().code(), absl::StatusCode::kDataLoss) << text;
  }
}

}  // namespace
}  // namespace tpx::control
