// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>

#include "control_lab.h"
#include "tpx/bpf/maps.h"
#include "tpx/control/lifecycle.h"
#include "tpx/control/snapshot.h"

namespace tpx::control {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

class ReloadTest : public ControlLab {};

TEST_F(ReloadTest, NeedsSomethingLoaded) {
  const std::string before = Dump();
  EXPECT_THAT(std::string(Reload(paths_, TestConfig(), "").status().message()),
              HasSubstr("nothing is loaded"));
  EXPECT_EQ(Dump(), before);
}

TEST_F(ReloadTest, PublishesTheNextGenerationAndFreesTheOld) {
  ASSERT_TRUE(Load(paths_, TestConfig(), "one").ok());
  for (uint32_t generation = 2; generation < 6; ++generation) {
    policy::Config config = TestConfig();
    config.policy.rules[0].dports = {{443, 443}};
    const auto report = Reload(paths_, config, "two");
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_EQ(report->generation, generation);
    const auto snapshot = Snapshot(paths_);
    EXPECT_EQ(snapshot->generation, generation);
    EXPECT_EQ(snapshot->config_text, "two");
    EXPECT_EQ(snapshot->rule_names.size(), 1U);
    EXPECT_THAT(snapshot->problems, IsEmpty());
    const auto tables = bpf::OpenTables(paths_.pins, bpf::Access::kReadWrite);
    EXPECT_TRUE(tables->Lookup(generation % TPX_SLOTS).ok());
    EXPECT_TRUE(absl::IsNotFound(tables->Lookup((generation + 1) % TPX_SLOTS).status()));
    const auto prefixes = bpf::OpenPrefixes(paths_.pins, bpf::Access::kReadWrite);
    EXPECT_TRUE(prefixes->Lookup(generation % TPX_SLOTS * 2).ok());
    EXPECT_FALSE(prefixes->Lookup((generation + 1) % TPX_SLOTS * 2).ok());
  }
}

TEST_F(ReloadTest, HitsOfRulesWithTheSameNameCarryOver) {
  ASSERT_TRUE(Load(paths_, TestConfig(), "").ok());
  const auto hits = bpf::OpenRuleHits(paths_.pins, bpf::Access::kReadWrite);
  ASSERT_TRUE(hits.ok());
  std::vector<tpx_count> values(hits->cpus());
  values[0] = {.packets = 7, .bytes = 700};
  ASSERT_TRUE(hits->Update(TPX_MAX_RULES + 0, values).ok());  // "web" of generation 1
  ASSERT_TRUE(hits->Update(0, values).ok());                  // stale: the other slot
  policy::Config config = TestConfig();
  config.policy.rules.insert(config.policy.rules.begin(), config.policy.rules[0]);
  config.policy.rules[0].name = "new";
  ASSERT_TRUE(Reload(paths_, config, "").ok());
  EXPECT_EQ(hits->Lookup(0)->at(0).packets, 0U);
  EXPECT_EQ(hits->Lookup(1)->at(0).packets, 7U);
  EXPECT_EQ(hits->Lookup(1)->at(0).bytes, 700U);
}

TEST_F(ReloadTest, ChangedSteeringIsRefused) {
  ASSERT_TRUE(Load(paths_, TestConfig(), "").ok());
  policy::Config config = TestConfig();
  config.steering.route_table = 99;
  const auto report = Reload(paths_, config, "");
  EXPECT_THAT(std::string(report.status().message()), HasSubstr("detach"));
  EXPECT_EQ(Snapshot(paths_)->generation, 1U);
}

TEST_F(ReloadTest, UnknownInterfaceLeavesTheOldGenerationRunning) {
  ASSERT_TRUE(Load(paths_, TestConfig(), "one").ok());
  const std::string before = Dump();
  policy::Config config = TestConfig();
  config.interfaces.lan.emplace_back("nosuch0");
  EXPECT_FALSE(Reload(paths_, config, "").ok());
  EXPECT_EQ(Dump(), before);
  EXPECT_EQ(Snapshot(paths_)->generation, 1U);
}

TEST_F(ReloadTest, FailureBeforeTheSwitchChangesNothing) {
  policy::Config config = TestConfig();
  config.interfaces.lan = {"lan0", "lan0p", "lan1p"};
  ASSERT_TRUE(Load(paths_, TestConfig(), "one").ok());
  const std::string before = Dump();
  for (int step = 0; step < 100; ++step) {
    int seen = 0;
    const auto report = Reload(paths_, config, "", FailAt(step, Fault::kError, &seen));
    if (Snapshot(paths_)->generation != 1) return;
    ASSERT_FALSE(report.ok());
    ASSERT_EQ(Dump(), before) << "step " << step;
    ASSERT_THAT(Snapshot(paths_)->problems, IsEmpty());
  }
  FAIL() << "never published";
}

TEST_F(ReloadTest, FollowsChangedInterfaces) {
  for (auto mode : {policy::AttachMode::kTcx, policy::AttachMode::kClsact}) {
    const std::string before = Dump();
    ASSERT_TRUE(Load(paths_, TestConfig(mode), "").ok());
    policy::Config config = TestConfig(mode);
    config.interfaces = {.lan = {"wan0", "lan0"}, .wan = {"lan1p"}};
    const auto report = Reload(paths_, config, "");
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_EQ(report->devices.size(), 3U);
    EXPECT_TRUE(AnyLineHas(report->lines, "attached to lan device wan0"));
    EXPECT_TRUE(AnyLineHas(report->lines, "detached from lan device lan1"));
    const auto snapshot = Snapshot(paths_);
    EXPECT_THAT(snapshot->problems, IsEmpty());
    EXPECT_EQ(Output("ip rule").find("iif lan1 "), std::string::npos);
    ASSERT_TRUE(Detach(paths_).ok());
    EXPECT_EQ(Dump(), before);
  }
}

}  // namespace
}  // namespace tpx::control
