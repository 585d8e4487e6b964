// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <net/if.h>

#include <map>
#include <set>
#include <utility>

#include "control/instance.h"
#include "control_lab.h"
#include "tpx/base/strings.h"
#include "tpx/bpf/link.h"
#include "tpx/bpf/maps.h"
#include "tpx/control/lifecycle.h"
#include "tpx/control/snapshot.h"

namespace tpx::control {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class ReloadTest : public ControlLab {
 protected:
  uint64_t Hits(const std::string& rule) const {
    const auto hits = bpf::OpenRuleHits(paths_.pins, bpf::Access::kReadOnly);
    return hits->Lookup(Snapshot(paths_)->rule_counters.at(rule))->at(0).packets;
  }
};

// How devices are followed, for each way of attaching.
class ReloadFollows : public ControlLab, public ::testing::WithParamInterface<policy::AttachMode> {
 protected:
  static policy::Config Devices(std::vector<std::string> lan, std::vector<std::string> wan) {
    policy::Config config = TestConfig(GetParam());
    config.interfaces = {.lan = std::move(lan), .wan = std::move(wan)};
    return config;
  }

  // By interface index, all that a new attachment would change: the role, the
  // program's id, the filter's priority or the link's id.
  std::map<int, std::string> Attachments() const {
    std::map<int, std::string> attachments;
    const auto snapshot = Snapshot(paths_);
    for (const auto& [device, exists, attached, program_id] : snapshot->devices) {
      const auto link = bpf::InspectLink(DeviceLinkPin(paths_.pins, device));
      attachments[device.ifindex] = StrCat(RoleName(device.role), " program ", program_id, " priority ",
                                           device.priority, " link ", link.ok() ? link->id : 0);
    }
    return attachments;
  }

  // How many programs of ours run at the ingress of a device.
  static size_t Filters(const std::string& device) {
    const std::string text = Output(StrCat("tc filter show dev ", device, " ingress"));
    size_t count = 0;
    for (size_t at = text.find(" id "); at != std::string::npos; at = text.find(" id ", at + 1)) ++count;
    return count;
  }

  // By name, as the state and the programs know them.
  std::map<std::string, Role> Roles() const {
    std::map<std::string, Role> roles;
    const auto devices = bpf::OpenDevices(paths_.pins, bpf::Access::kReadOnly);
    const auto snapshot = Snapshot(paths_);
    for (const DeviceState& state : snapshot->devices) {
      const auto role = devices->Lookup(static_cast<uint32_t>(state.device.ifindex));
      EXPECT_EQ(role.value_or(0), state.device.role == Role::kLan ? TPX_ROLE_LAN : TPX_ROLE_WAN);
      roles[state.device.name] = state.device.role;
    }
    return roles;
  }
};
INSTANTIATE_TEST_SUITE_P(Modes, ReloadFollows,
                         ::testing::Values(policy::AttachMode::kTcx, policy::AttachMode::kClsact),
                         [](const auto& mode) {
                           return mode.param == policy::AttachMode::kTcx ? "tcx" : "clsact";
                         });

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
    values[0] = {.packets = 100 + i, .bytes = 0, .by_xdp = 0};
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

TEST_F(ReloadTest, SourcesAreKnownToTheRulesThatLimitedThem) {
  constexpr uint32_t kSources = 10'000;
  ASSERT_TRUE(Load(paths_, TestConfig(), "").ok());
  const auto sources = bpf::OpenSources(paths_.pins, bpf::Access::kReadWrite);
  ASSERT_TRUE(sources.ok()) << sources.status();
  const uint32_t web = Snapshot(paths_)->rule_counters.at("web");
  for (uint32_t i = 0; i < kSources; ++i) {
    // Counters of the live rules, and of those that the reload makes.
    ASSERT_TRUE(sources->Update({.addr = {.w = {i, 0, 0, 0}}, .counter = i % 100}, {1, 0}).ok());
  }
  policy::Config renamed = TestConfig();
  renamed.policy.rules.insert(renamed.policy.rules.begin(), renamed.policy.rules[0]);
  renamed.policy.rules[0].name = "new";
  ASSERT_TRUE(Reload(paths_, renamed, "").ok());
  const uint32_t fresh = Snapshot(paths_)->rule_counters.at("new");
  const auto keys = sources->Keys();
  ASSERT_TRUE(keys.ok());
  std::map<uint32_t, uint32_t> left;
  for (const tpx_source_key& key : *keys) ++left[key.counter];
  EXPECT_EQ(left[fresh], 0u);
  EXPECT_EQ(left[web], kSources / 100);
  EXPECT_EQ(keys->size(), kSources / 100 * 99);
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
    EXPECT_TRUE(AnyLineHas(report->lines, "wan device wan0 is lan device wan0 ("));
    EXPECT_TRUE(AnyLineHas(report->lines, "detached from lan device lan1"));
    const auto snapshot = Snapshot(paths_);
    EXPECT_THAT(snapshot->problems, IsEmpty());
    EXPECT_EQ(Output("ip rule").find("iif lan1 "), std::string::npos);
    ASSERT_TRUE(Detach(paths_).ok());
    EXPECT_EQ(Dump(), before);
  }
}

TEST_P(ReloadFollows, ADeviceThatChangedItsNameKeepsItsAttachment) {
  const std::string before = Dump();
  for (const char* wanted : {"lan7", "lan[0-9]"}) {
    ASSERT_TRUE(Load(paths_, Devices({"lan0", "lan1"}, {"wan0"}), "").ok());
    const auto attachments = Attachments();
    Sh("ip link set lan1 name lan7");
    EXPECT_TRUE(AnyLineHas(Snapshot(paths_)->problems, " is lan7 now"));
    const auto report = Reload(paths_, Devices({"lan0", wanted}, {"wan0"}), "");
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_TRUE(AnyLineHas(report->lines, "lan device lan1 is lan7 now"));
    EXPECT_THAT(Snapshot(paths_)->problems, IsEmpty());
    EXPECT_EQ(Attachments(), attachments);
    EXPECT_EQ(Roles(), (std::map<std::string, Role>{
                           {"lan0", Role::kLan}, {"lan7", Role::kLan}, {"wan0", Role::kWan}}));
    EXPECT_EQ(Output("ip rule").find("iif lan1 "), std::string::npos);
    ASSERT_TRUE(Detach(paths_).ok());
    Sh("ip link set lan7 name lan1");
    EXPECT_EQ(Dump(), before);
  }
}

TEST_P(ReloadFollows, DevicesThatSwappedTheirNamesKeepTheirAttachments) {
  const std::string before = Dump();
  ASSERT_TRUE(Load(paths_, Devices({"lan0", "lan1"}, {"wan0"}), "").ok());
  const auto attachments = Attachments();
  Sh("ip link set lan0 name x; ip link set lan1 name lan0; ip link set x name lan1");
  const auto report = Reload(paths_, Devices({"lan0", "lan1"}, {"wan0"}), "");
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_THAT(Snapshot(paths_)->problems, IsEmpty());
  EXPECT_EQ(Attachments(), attachments);
  EXPECT_THAT(Output("ip rule"), AllOf(HasSubstr("iif lan0 "), HasSubstr("iif lan1 ")));
  ASSERT_TRUE(Detach(paths_).ok());
  Sh("ip link set lan0 name x; ip link set lan1 name lan0; ip link set x name lan1");
  EXPECT_EQ(Dump(), before);
}

TEST_P(ReloadFollows, ADeviceChangesItsRoleInPlace) {
  const std::string before = Dump();
  ASSERT_TRUE(Load(paths_, Devices({"lan0", "lan1"}, {"wan0"}), "").ok());
  const auto attachments = Attachments();
  for (const bool swapped : {true, false, true, false}) {
    const auto report = Reload(
        paths_, swapped ? Devices({"lan0", "wan0"}, {"lan1"}) : Devices({"lan0", "lan1"}, {"wan0"}), "");
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_THAT(Snapshot(paths_)->problems, IsEmpty());
    for (const auto& [ifindex, attachment] : Attachments()) {
      const std::string& first = attachments.at(ifindex);
      const bool same = !swapped || ifindex == static_cast<int>(if_nametoindex("lan0"));
      EXPECT_EQ(attachment == first, same) << attachment << ", before: " << first;
      EXPECT_EQ(attachment.substr(attachment.find(" priority ")), first.substr(first.find(" priority ")));
    }
    const Role lan1 = swapped ? Role::kWan : Role::kLan, wan0 = swapped ? Role::kLan : Role::kWan;
    EXPECT_EQ(Roles(), (std::map<std::string, Role>{{"lan0", Role::kLan}, {"lan1", lan1}, {"wan0", wan0}}));
  }
  ASSERT_TRUE(Detach(paths_).ok());
  EXPECT_EQ(Dump(), before);
}

TEST_P(ReloadFollows, ADeviceThatChangedNameAndRole) {
  const std::string before = Dump();
  ASSERT_TRUE(Load(paths_, Devices({"lan0", "lan1"}, {"wan0"}), "").ok());
  Sh("ip link set lan1 name wan7; ip link set wan0 name lan7");
  ASSERT_TRUE(Reload(paths_, Devices({"lan[0-9]"}, {"wan[0-9]"}), "").ok());
  EXPECT_THAT(Snapshot(paths_)->problems, IsEmpty());
  EXPECT_EQ(Roles(),
            (std::map<std::string, Role>{{"lan0", Role::kLan}, {"wan7", Role::kWan}, {"lan7", Role::kLan}}));
  ASSERT_TRUE(Detach(paths_).ok());
  Sh("ip link set wan7 name lan1; ip link set lan7 name wan0");
  EXPECT_EQ(Dump(), before);
}

TEST_P(ReloadFollows, WhatSomebodyElseRemovedIsThereAgain) {
  ASSERT_TRUE(Load(paths_, Devices({"lan0", "lan1"}, {"wan0"}), "").ok());
  if (GetParam() == policy::AttachMode::kClsact) {
    Sh("tc filter del dev lan1 ingress");
  } else {
    Sh(StrCat("rm ", paths_.pins, "/link_lan_", if_nametoindex("lan1")));
  }
  Sh("ip rule del iif wan0 pref 100; ip route flush table 2184");
  const auto found = Snapshot(paths_);
  EXPECT_THAT(found->problems, AllOf(::testing::SizeIs(3), Each(HasSubstr("; run 'tpx-bpf reload'"))));
  const auto report = Reload(paths_, Devices({"lan0", "lan1"}, {"wan0"}), "");
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_TRUE(AnyLineHas(report->lines, "attached to lan device lan1"));
  EXPECT_TRUE(AnyLineHas(report->lines, "added again: IPv4 rule 100: iif wan0"));
  EXPECT_THAT(Snapshot(paths_)->problems, IsEmpty());
}

// Deleted and made again, or gone to another namespace and back.
TEST_P(ReloadFollows, AnotherDeviceWithTheIndexOfOneThatWent) {
  ASSERT_TRUE(Load(paths_, Devices({"lan0", "lan1"}, {"wan0"}), "").ok());
  for (const char* name : {"lan1", "lan7"}) {
    const unsigned index = if_nametoindex("lan1");
    Sh("ip link del lan1");
    Sh(StrCat("ip link add ", name, " index ", index, " type veth peer name p"));
    const auto report = Reload(paths_, Devices({"lan0", name}, {"wan0"}), "");
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_TRUE(AnyLineHas(report->lines, StrCat("attached to lan device ", name)));
    EXPECT_THAT(Snapshot(paths_)->problems, IsEmpty());
    EXPECT_EQ(Snapshot(paths_)->devices.size(), 3U);
  }
}

TEST_P(ReloadFollows, FailureBeforeTheSwitchPutsBackWhatWas) {
  ASSERT_TRUE(Load(paths_, Devices({"lan0", "lan1"}, {"wan0"}), "").ok());
  ASSERT_TRUE(Reload(paths_, Devices({"lan0", "lan1", "lan0p"}, {"wan0"}), "").ok());
  // lan0 changes its role, two change their names, one of these its role too,
  // lan0p lost its program before, and two are new. A qdisc would be left to the detach.
  Sh("ip link set lan1 name lan7; ip link set wan0 name lan8");
  if (GetParam() == policy::AttachMode::kClsact) {
    Sh("tc filter del dev lan0p ingress; tc qdisc add dev wan0p clsact; tc qdisc add dev lan1p clsact");
  } else {
    Sh(StrCat("rm ", paths_.pins, "/link_lan_", if_nametoindex("lan0p")));
  }
  const policy::Config next = Devices({"lan7", "lan8", "lan0p", "wan0p"}, {"lan0", "lan1p"});
  const std::string before = Dump();
  const auto attachments = Attachments();
  for (int step = 0; step < 200; ++step) {
    int seen = 0;
    const auto report = Reload(paths_, next, "", FailAt(step, Fault::kError, &seen));
    if (Snapshot(paths_)->generation != 2) {
      EXPECT_GT(step, 20);
      EXPECT_THAT(Snapshot(paths_)->problems, Each(AnyOf(HasSubstr(" is gone"), HasSubstr(" now; run"))));
      return;
    }
    ASSERT_FALSE(report.ok());
    ASSERT_EQ(Dump(), before) << "step " << step << ": " << report.status();
    ASSERT_EQ(Attachments(), attachments) << "step " << step << ": " << report.status();
    ASSERT_EQ(Filters("lan0p"), 0U);
  }
  FAIL() << "never published";
}

}  // namespace
}  // namespace tpx::control
