// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>

#include <set>

#include "control_lab.h"
#include "tpx/base/strings.h"
#include "tpx/bpf/maps.h"
#include "tpx/control/lifecycle.h"
#include "tpx/control/snapshot.h"

namespace tpx::control {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

class ReloadTest : public ControlLab {
 protected:
  uint64_t Hits(const std::string& rule) const {
    const auto hits = bpf::OpenRuleHits(paths_.pins, bpf::Access::kReadOnly);
    return hits->Lookup(Snapshot(paths_)->rule_counters.at(rule))->at(0).packets;
  }
};

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
    EXPECT_EQ(snapshot->rule_counters.size(), config.policy.rules.size());
    EXPECT_THAT(snapshot->problems, IsEmpty());
    const auto tables = bpf::OpenTables(paths_.pins, bpf::Access::kReadWrite);
    EXPECT_TRUE(tables->Lookup(generation % TPX_SLOTS).ok());
    EXPECT_TRUE(absl::IsNotFound(tables->Lookup((generation + 1) % TPX_SLOTS).status()));
    const auto prefixes = bpf::OpenPrefixes(paths_.pins, bpf::Access::kReadWrite);
    EXPECT_TRUE(prefixes->Lookup(generation % TPX_SLOTS * 2).ok());
    EXPECT_FALSE(prefixes->Lookup((generation + 1) % TPX_SLOTS * 2).ok());
  }
}

TEST_F(ReloadTest, RulesKeepTheirHitsByName) {
  ASSERT_TRUE(Load(paths_, TestConfig(), "").ok());
  const auto hits = bpf::OpenRuleHits(paths_.pins, bpf::Access::kReadWrite);
  ASSERT_TRUE(hits.ok());
  std::vector<tpx_count> values(hits->cpus());
  for (uint32_t i = 0; i < TPX_MAX_COUNTERS; ++i) {
    values[0] = {.packets = 100 + i, .bytes = 0};
    ASSERT_TRUE(hits->Update(i, values).ok());
  }
  const uint64_t web = Hits("web"), others = Hits("default");
  ASSERT_NE(web, others);

  policy::Config renamed = TestConfig();
  renamed.policy.rules.insert(renamed.policy.rules.begin(), renamed.policy.rules[0]);
  renamed.policy.rules[0].name = "new";
  ASSERT_TRUE(Reload(paths_, renamed, "").ok());
  EXPECT_EQ(Hits("new"), 0U);
  EXPECT_EQ(Hits("web"), web);
  EXPECT_EQ(Hits("default"), others);

  ASSERT_TRUE(Reload(paths_, TestConfig(), "").ok());
  EXPECT_EQ(Snapshot(paths_)->rule_counters.count("new"), 0U);
  EXPECT_EQ(Hits("web"), web);
  ASSERT_TRUE(Reload(paths_, renamed, "").ok());
  EXPECT_EQ(Hits("new"), 0U) << "a rule that comes back is a new one";
}

TEST_F(ReloadTest, AsManyRulesAsThereMayBeCanAllBeRenamed) {
  for (const char* prefix : {"a", "b", "c"}) {
    policy::Config config = TestConfig();
    std::vector<policy::Rule>& rules = config.policy.rules;
    rules.insert(rules.begin(), TPX_MAX_RULES - rules.size(), policy::Rule(rules[0]));
    for (size_t i = 0; i < rules.size(); ++i) rules[i].name = StrCat(prefix, i);
    ASSERT_TRUE(Load(paths_, config, "").ok());
    const auto report = Reload(paths_, config, "");
    ASSERT_TRUE(report.ok()) << report.status();
    std::set<uint32_t> counters;
    const auto snapshot = Snapshot(paths_);
    for (const auto& [name, counter] : snapshot->rule_counters) counters.insert(counter);
    EXPECT_EQ(counters.size(), size_t{TPX_MAX_RULES});
    EXPECT_LT(*counters.rbegin(), uint32_t{TPX_MAX_COUNTERS});
  }
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
