// SPDX-License-Identifier: Apache-2.0
// Rules that ask for the process behind a local flow: from the text to the tables.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>
#include <random>

#include "support/config_files.h"
#include "support/reference_policy.h"
#include "support/scale.h"
#include "tpx/base/strings.h"

namespace tpx::policy {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

ParseResult Parsed(std::string_view match, std::string_view local = "local: true\n") {
  return ParseText(StrCat("version: 1\ninterfaces: {lan: eth1}\n", local,
                          "rules:\n  - {name: a, match: ", match, ", action: drop}\n"));
}

Rule ParsedRule(std::string_view match) {
  ParseResult result = Parsed(match);
  EXPECT_TRUE(result.ok()) << AllText(result.errors);
  return result.ok() ? result.config.policy.rules[0] : Rule{};
}

TEST(OwnerMatch, ReadsNamesNumbersAndRanges) {
  EXPECT_THAT(ParsedRule("{uid: [alice, 0, 5-7]}").uids,
              ElementsAre(IdRange{1000, 1000}, IdRange{0, 0}, IdRange{5, 7}));
  EXPECT_THAT(ParsedRule("{gid: staff}").gids, ElementsAre(IdRange{50, 50}));
  EXPECT_THAT(ParsedRule("{uid: 4294967294}").uids, ElementsAre(IdRange{0xfffffffe, 0xfffffffe}));
  EXPECT_THAT(ParsedRule("{uid: 0-15359}").uids, ElementsAre(IdRange{0, 15359}));
  EXPECT_THAT(ParsedRule("{cgroup: [/, /user.slice/a]}").cgroups,
              ElementsAre(CgroupMatch{"/", 1}, CgroupMatch{"/user.slice/a", 11}));
  EXPECT_THAT(ParsedRule("{exe: /usr/bin/curl}").programs,
              ElementsAre(ProgramMatch{"/usr/bin/curl", {100, 7}}));
  EXPECT_THAT(ParsedRule("{vlan: [1, 4094]}").vlans, ElementsAre(1, 4094));
}

TEST(OwnerMatch, Not) {
  const Rule rule = ParsedRule("{uid: {not: root}, gid: {not: 0}, cgroup: {not: /}, exe: {not: /bin/dig}}");
  EXPECT_EQ(rule.negated, kMatchUid | kMatchGid | kMatchCgroup | kMatchExe);
  EXPECT_EQ(ParsedRule("{vlan: {not: 5}}").negated, kMatchVlan);
}

TEST(OwnerMatch, WhatDoesNotExistIsAWarningAndMatchesNothing) {
  ParseResult result = Parsed("{cgroup: [/gone, /user.slice]}");
  EXPECT_TRUE(result.ok());
  EXPECT_EQ(AllText(result.warnings),
            "test.yaml:5:32: cgroup: '/gone' does not exist: no process has it, until a reload finds it\n");
  EXPECT_EQ(result.config.policy.rules[0].cgroups[0].id, 0u);
  result = Parsed("{exe: /usr/bin/gone}");
  EXPECT_EQ(
      AllText(result.warnings),
      "test.yaml:5:28: exe: '/usr/bin/gone' does not exist: no process has it, until a reload finds it\n");
  result = Parsed("{exe: {not: /dev}}");
  EXPECT_EQ(
      AllText(result.warnings),
      "test.yaml:5:34: exe: '/dev' cannot be used (not a regular file): no process has it, until a reload "
      "finds it\n");
}

TEST(OwnerMatch, WithoutALookupNoNameStandsForAnything) {
  auto no_files = [](const std::string&) -> absl::StatusOr<std::string> { return absl::NotFoundError(""); };
  const std::string text =
      "version: 1\ninterfaces: {lan: eth1}\nrules: [{name: a, match: {uid: root}, action: drop}]\n";
  EXPECT_EQ(AllText(ParseConfig(text, "c.yaml", no_files).errors),
            "c.yaml:3:32: uid: there is no user 'root'\n");
}

TEST(OwnerMatch, ALookupThatFailsIsTold) {
  auto no_files = [](const std::string&) -> absl::StatusOr<std::string> { return absl::NotFoundError(""); };
  OwnerLookup owners = TestOwners();
  owners.group = [](const std::string&) { return absl::UnavailableError("no directory service"); };
  const std::string text =
      "version: 1\ninterfaces: {lan: eth1}\nrules: [{name: a, match: {gid: staff}, action: drop}]\n";
  EXPECT_EQ(AllText(ParseConfig(text, "c.yaml", no_files, {}, owners).errors),
            "c.yaml:3:32: gid: cannot look up the group 'staff': no directory service\n");
}

TEST(OwnerMatch, ALimitOfLocalFlowsIsTold) {
  const ParseResult result = ParseText(
      "version: 1\ninterfaces: {lan: eth1}\nlocal: true\nrules:\n"
      "  - {name: a, match: {uid: 5}, action: proxy, limit: {rate: 5}}\n"
      "  - {name: b, match: {uid: 6}, action: proxy}\n"
      "  - {name: c, match: {proto: tcp}, action: proxy, limit: {rate: 5}}\n");
  EXPECT_EQ(AllText(result.errors), "");
  EXPECT_EQ(
      AllText(result.warnings),
      "test.yaml:5:5: rule 'a' limits nothing: it asks for uid, and flows of this machine's own processes "
      "have no limit\n");
}

TEST(OwnerMatch, RulesThatCanNeverMatchAreNamed) {
  EXPECT_EQ(
      AllText(Parsed("{gid: 5}", "").warnings),
      "test.yaml:4:5: rule 'a' can never match: it asks for gid, which only flows of this machine's own "
      "processes have, and 'local' is off\n");
  EXPECT_EQ(
      AllText(Parsed("{uid: 5, vlan: 7}").warnings),
      "test.yaml:5:5: rule 'a' can never match: it asks for uid, which only flows of this machine's own "
      "processes have, and for vlan, which only packets that come in have\n");
  EXPECT_EQ(
      AllText(Parsed("{gid: 5, proto: icmp}").warnings),
      "test.yaml:5:5: rule 'a' can never match: it asks for gid, which is known of TCP and UDP only, and for "
      "another protocol\n");
  EXPECT_EQ(AllText(Parsed("{src: 192.0.2.0/24, dst: [2001:db8::/32, 2001:db8:1::1]}").warnings),
            "test.yaml:5:5: rule 'a' can never match: of src and dst one lists only IPv4 and the other only "
            "IPv6\n");
  for (const char* match : {"{uid: 5}", "{cgroup: /, dport: 80}", "{interface: eth1}", "{exe: /bin/dig}",
                            "{uid: 5, proto: [udp, icmp]}", "{src: 192.0.2.1, dst: {not: 2001:db8::/32}}",
                            "{src: 192.0.2.1, dst: [2001:db8::1, 198.51.100.1]}"})
    EXPECT_EQ(AllText(Parsed(match).warnings), "") << match;
  for (const char* key : {"uid: 5", "gid: 5", "cgroup: /", "exe: /bin/dig"}) {
    EXPECT_EQ(Parsed(StrCat("{", key, "}"), "local: false\n").warnings.size(), 1u) << key;
    for (const char* link : {"interface: eth1", "mac: '00:53:00:00:00:01'", "dscp: 1", "mark: 1", "vlan: 1"})
      EXPECT_EQ(Parsed(StrCat("{", key, ", ", link, "}")).warnings.size(), 1u) << key << link;
  }
}

TestFlow LocalFlow(TestOwner owner) {
  TestFlow flow{.src = *IpAddr::Parse("192.0.2.1"), .dst = *IpAddr::Parse("198.51.100.1")};
  flow.owner = std::move(owner);
  return flow;
}

// Index of the first of the rules that the owner's flow matches.
size_t Decided(const std::vector<Rule>& rules, const TestOwner& owner) {
  Policy policy{rules};
  policy.rules.push_back({});
  const auto compiled = Compile(policy);
  EXPECT_TRUE(compiled.ok()) << compiled.status();
  const size_t rule = TableInterpreter(*compiled).Evaluate(LocalFlow(owner));
  EXPECT_EQ(rule, FirstMatch(policy, LocalFlow(owner)));
  return rule;
}

TEST(OwnerMatch, TheNearestNamedCgroupSaysWhatThoseAboveItSay) {
  const TestOwner deep{.cgroup = "/a/b/c", .cgroup_ids = {4, 3, 2, 1}};
  const CgroupMatch root{"/", 1}, a{"/a", 2}, ab{"/a/b", 3}, gone{"/a/b/c", 0}, other{"/ab", 9};
  EXPECT_EQ(Decided({{.cgroups = {ab}}}, deep), 0u);
  EXPECT_EQ(Decided({{.cgroups = {a}}, {.cgroups = {ab}}}, deep), 0u);
  EXPECT_EQ(Decided({{.cgroups = {other}}, {.cgroups = {ab}}, {.cgroups = {a}}}, deep), 1u);
  EXPECT_EQ(Decided({{.cgroups = {gone}}, {.cgroups = {root}}}, deep), 1u);
  EXPECT_EQ(Decided({{.cgroups = {ab}, .negated = kMatchCgroup}, {.cgroups = {a}}}, deep), 1u);
  EXPECT_EQ(Decided({{.cgroups = {gone}, .negated = kMatchCgroup}}, deep), 0u);
  const TestOwner outside{.cgroup = "/ab", .cgroup_ids = {9, 1}};
  EXPECT_EQ(Decided({{.cgroups = {a}}}, outside), 1u);
  EXPECT_EQ(Decided({{.cgroups = {a}, .negated = kMatchCgroup}}, outside), 0u);
  EXPECT_EQ(Decided({{.cgroups = {root}, .negated = kMatchCgroup}}, outside), 1u);
}

TEST(OwnerMatch, TwoPathsOfOneProgramAreOne) {
  const ProgramMatch dig{"/usr/bin/dig", {101, 7}}, also{"/bin/dig", {101, 7}}, other{"/a", {101, 8}};
  const TestOwner owner{.program = {101, 7}};
  EXPECT_EQ(
      Decided({{.programs = {other}}, {.uids = {{5, 5}}, .programs = {dig}}, {.programs = {also}}}, owner),
      2u);
  EXPECT_EQ(Decided({{.programs = {other}}}, {.program = {}}), 1u);
}

TEST(OwnerMatch, WhoseFilesAreMissingMatchesNoProcessWithoutAFile) {
  const ProgramMatch gone{"/gone", {}};
  EXPECT_EQ(Decided({{.programs = {gone}}}, {.program = {}}), 1u);
  EXPECT_EQ(Decided({{.programs = {gone}, .negated = kMatchExe}}, {.program = {101, 7}}), 0u);
}

TEST(OwnerMatch, PacketsAndLocalFlowsHaveRulesOfTheirOwn) {
  Policy policy{{{.uids = {{0, 10}}}, {.vlans = {5}}, {.protocols = {17}}, {}}};
  const auto compiled = Compile(policy);
  ASSERT_TRUE(compiled.ok()) << compiled.status();
  const tpx_tables& t = *compiled->tables;
  EXPECT_EQ(t.bits[t.proto_class[6]].word[0], 0b1010u);
  EXPECT_EQ(t.bits[t.proto_class[17]].word[0], 0b1110u);
  EXPECT_EQ(t.bits[t.local_proto_class[6]].word[0], 0b1001u);
  EXPECT_EQ(t.bits[t.local_proto_class[17]].word[0], 0b1101u);
  EXPECT_EQ(t.bits[t.linkless_class].word[0], 0b1100u);
  EXPECT_EQ(t.bits[t.portless_class].word[0], 0b1110u);
  EXPECT_EQ(t.asks, 1u << TPX_ATTR_UID | 1u << TPX_ATTR_DEVICE);
}

TEST(OwnerMatch, DenyingRulesOfOwnersDoNotConcernPackets) {
  Policy policy{{{.uids = {{0, 0}}, .action = TPX_ACTION_DROP}, {}}};
  auto compiled = Compile(policy);
  ASSERT_TRUE(compiled.ok());
  const tpx_tables& t = *compiled->tables;
  EXPECT_EQ(t.classify_others, 0u);
  EXPECT_EQ(t.bits[t.denying_class].summary, 0u);
}

TEST(OwnerMatch, LimitsAreNamed) {
  const IdRange all{0, 0xfffffffe}, most{0, TPX_MAX_ATTRIBUTES - TPX_MAX_DEVICES - 1};
  const std::vector<MacAddress> mac = {MacAddress{}};
  EXPECT_THAT(std::string(Compile({{{.uids = {all}}, {}}}).status().message()),
              HasSubstr("TPX_MAX_ATTRIBUTES"));
  EXPECT_TRUE(Compile({{{.uids = {most}}, {.uids = {most}}, {}}}).ok());
  EXPECT_THAT(std::string(Compile({{{.macs = mac}, {.gids = {most}}, {}}}).status().message()),
              HasSubstr("more than 15360 different MAC addresses, users, groups, cgroups and programs"));
}

std::vector<std::pair<size_t, size_t>> ShadowedOf(std::vector<Rule> rules) {
  Policy policy{std::move(rules)};
  policy.rules.push_back({.name = "default"});
  const auto compiled = Compile(policy);
  EXPECT_TRUE(compiled.ok()) << compiled.status();
  std::vector<std::pair<size_t, size_t>> pairs;
  for (const Shadowed& s : FindShadowed(policy, *compiled)) pairs.emplace_back(s.rule, s.by);
  return pairs;
}

TEST(OwnerMatch, ShadowedRules) {
  const std::pair<size_t, size_t> second_by_first{1, 0};
  const CgroupMatch a{"/a", 2}, ab{"/a/b", 3}, gone{"/a/gone", 0};
  const ProgramMatch dig{"/usr/bin/dig", {101, 7}}, also{"/bin/dig", {101, 7}}, none{"/gone", {}};
  auto shadowed = [](Rule first, Rule second) { return ShadowedOf({first, second}); };
  EXPECT_THAT(shadowed({.uids = {{0, 99}}}, {.uids = {{5, 7}}}), ElementsAre(second_by_first));
  EXPECT_THAT(shadowed({.uids = {{5, 7}}}, {.uids = {{0, 99}}}), IsEmpty());
  EXPECT_THAT(shadowed({.uids = {{5, 7}}}, {.gids = {{5, 7}}}), IsEmpty());
  EXPECT_THAT(shadowed({.uids = {{5, 7}}}, {.uids = {{5, 5}}, .gids = {{1, 1}}}),
              ElementsAre(second_by_first));
  EXPECT_THAT(shadowed({.uids = {{5, 7}}, .negated = kMatchUid}, {.uids = {{8, 9}}}),
              ElementsAre(second_by_first));
  EXPECT_THAT(shadowed({.cgroups = {a}}, {.cgroups = {ab, gone}}), ElementsAre(second_by_first));
  EXPECT_THAT(shadowed({.cgroups = {ab}}, {.cgroups = {gone}}), IsEmpty());
  EXPECT_THAT(shadowed({.programs = {dig}}, {.programs = {also}}), ElementsAre(second_by_first));
  EXPECT_THAT(shadowed({.programs = {none}}, {.programs = {dig}}), IsEmpty());
  EXPECT_THAT(shadowed({.vlans = {1, 2}}, {.interfaces = {"eth1"}, .vlans = {2}}),
              ElementsAre(second_by_first));
  EXPECT_THAT(shadowed({.interfaces = {"eth*"}}, {.vlans = {2}}), IsEmpty());
  EXPECT_THAT(shadowed({.vlans = {1}, .negated = kMatchVlan}, {.vlans = {2}}), ElementsAre(second_by_first));
  EXPECT_THAT(shadowed({.uids = {{0, 0}}, .negated = kMatchUid}, {.interfaces = {"eth1"}}), IsEmpty());
  EXPECT_THAT(shadowed({}, {.uids = {{0, 0}}}),
              ElementsAre(second_by_first, std::pair<size_t, size_t>(2, 0)));
}

TEST(OwnerMatch, ARuleForLocalFlowsAloneShadowsNoneForPacketsToo) {
  EXPECT_THAT(ShadowedOf({{.cgroups = {{"/", 1}}}, {.protocols = {6}}}), IsEmpty());
  EXPECT_THAT(ShadowedOf({{.interfaces = {"*"}}, {.protocols = {6}}}), IsEmpty());
}

// Few values of each kind, so that rules and flows meet; packets and local flows.
class RandomOwners {
 public:
  explicit RandomOwners(uint64_t seed) : random_(seed) {}

  Policy MakePolicy() {
    Policy policy;
    for (size_t i = 0, n = 1 + Below(16); i < n; ++i) policy.rules.push_back(MakeRule());
    policy.rules.push_back({});
    return policy;
  }

  std::vector<DeviceName> Devices() const {
    return {{"eth1", 1, 0}, {"eth1.1", 2, 1}, {"eth1.2", 3, 2}, {"guests", 4, 3}};
  }

  TestFlow MakeFlow() {
    TestFlow flow{.src = Address(), .dst = Address(), .protocol = Protocol(), .sport = 1, .dport = Port()};
    if (Below(3) != 0) {
      flow.owner = MakeOwner();
      return flow;
    }
    const DeviceName device = Devices()[Below(4)];
    flow.device = device.name;
    flow.ifindex = device.ifindex;
    flow.vlan = device.vlan;
    flow.dscp = static_cast<uint8_t>(Below(3));
    flow.mark = Below(4);
    return flow;
  }

 private:
  uint32_t Below(uint32_t n) { return static_cast<uint32_t>(random_() % n); }
  uint8_t Protocol() { return Below(3) == 0 ? 17 : 6; }
  uint16_t Port() { return static_cast<uint16_t>(80 + Below(3)); }
  IpAddr Address() {
    return *IpAddr::Parse(Below(2) == 0 ? StrCat("192.0.2.", Below(4)) : StrCat("2001:db8::", Below(4)));
  }
  // Of the paths of the letters a and b, up to three deep.
  std::string CgroupPath() {
    std::string path;
    for (uint32_t depth = Below(4); depth > 0; --depth) path += Below(2) == 0 ? "/a" : "/b";
    return path.empty() ? "/" : path;
  }
  static uint64_t CgroupIdOf(const std::string& path) {
    uint64_t id = 1;
    for (char c : path) id = c == '/' ? id : 2 * id + (c == 'b' ? 1 : 0);
    return id;
  }
  TestOwner MakeOwner() {
    TestOwner owner{.uid = Below(12), .gid = Below(4), .cgroup = CgroupPath()};
    for (std::string path = owner.cgroup; path != "/" && !path.empty(); path.resize(path.rfind('/')))
      owner.cgroup_ids.push_back(CgroupIdOf(path));
    owner.cgroup_ids.push_back(1);
    if (Below(8) != 0) owner.program = {1 + Below(4), Below(2)};
    return owner;
  }
  IdRange Ids() {
    const uint32_t first = Below(12);
    return {first, first + Below(3)};
  }
  CgroupMatch Cgroup() {
    const std::string path = CgroupPath();
    // Some came to be only after the rules were read.
    return {path, reference::IsWithin(path, "/a/b") ? 0 : CgroupIdOf(path)};
  }
  ProgramMatch Program() {
    if (Below(8) == 0) return {"/gone", {}};
    const FileId file{1 + Below(4), Below(2)};
    return {StrCat("/", file.inode, "/", file.device, "/", Below(2)), file};
  }

  Rule MakeRule() {
    constexpr tpx_action kActions[] = {TPX_ACTION_BYPASS, TPX_ACTION_PROXY, TPX_ACTION_DROP};
    Rule rule{.action = kActions[Below(3)]};
    auto some = [this](auto& list, uint32_t one_in, auto make) {
      if (Below(one_in) != 0) return;
      for (uint32_t n = 1 + Below(3); n > 0; --n) list.push_back(make());
    };
    some(rule.uids, 4, [this] { return Ids(); });
    some(rule.gids, 4, [this] { return Ids(); });
    some(rule.cgroups, 3, [this] { return Cgroup(); });
    some(rule.programs, 4, [this] { return Program(); });
    some(rule.protocols, 5, [this] { return Protocol(); });
    some(rule.dports, 5, [this] {
      const uint16_t port = Port();
      return PortRange{port, port};
    });
    some(rule.dst, 5, [this] { return Prefix{.addr = Address(), .length = 128}; });
    if (Below(2) == 0) {
      some(rule.vlans, 3, [this] { return static_cast<uint16_t>(1 + Below(4)); });
      some(rule.interfaces, 4, [this] { return std::string(Below(2) == 0 ? "eth1*" : "guests"); });
      some(rule.dscps, 6, [this] { return static_cast<uint8_t>(Below(3)); });
      some(rule.marks, 6, [] { return MarkMatch{1, 1}; });
    }
    rule.negated = static_cast<uint32_t>(random_()) & (kMatchUid | kMatchGid | kMatchCgroup | kMatchExe |
                                                       kMatchVlan | kMatchInterface | kMatchMark | kMatchDst);
    return rule;
  }

  std::mt19937_64 random_;
};

struct Tally {
  size_t cases = 0, of_owner = 0, of_link = 0, shadowed = 0;
};

void CheckPolicy(uint64_t seed, uint32_t i, Tally& tally) {
  RandomOwners random(seed + uint64_t{i} * 0x9e3779b97f4a7c15);
  const Policy policy = random.MakePolicy();
  auto compiled = Compile(policy);
  ASSERT_TRUE(compiled.ok()) << compiled.status();
  for (const AttributeEntry& entry : DeviceEntries(policy, random.Devices()))
    compiled->attributes.push_back(entry);
  const TableInterpreter tables(*compiled);
  const std::vector<Shadowed> shadowed = FindShadowed(policy, *compiled);
  tally.shadowed += shadowed.size();
  for (int j = 0; j < 500; ++j) {
    const TestFlow flow = random.MakeFlow();
    const size_t expected = FirstMatch(policy, flow);
    const Rule& rule = policy.rules[expected];
    ASSERT_EQ(tables.Evaluate(flow), expected)
        << "TPX_SEED=" << seed << " policy " << i << " flow " << j << (flow.owner ? ", local" : ", a packet");
    ASSERT_FALSE(flow.owner ? rule.asks_for_link() : rule.asks_for_owner());
    for (const Shadowed& s : shadowed)
      ASSERT_NE(s.rule, expected) << "shadowed by " << s.by << ", TPX_SEED=" << seed << " policy " << i;
    ++tally.cases;
    tally.of_owner += rule.asks_for_owner();
    tally.of_link += rule.asks_for_link();
  }
}

TEST(OwnerProperty, TablesMeanWhatTheRulesMean) {
  const char* given = getenv("TPX_SEED");
  const uint64_t seed = given != nullptr ? strtoull(given, nullptr, 10) : std::random_device()();
  std::cout << "TPX_SEED=" << seed << "\n";
  RecordProperty("seed", StrCat(seed));
  const uint32_t policies = test::Scaled(300);
  Tally tally;
  for (uint32_t i = 0; i < policies && !HasFatalFailure(); ++i) CheckPolicy(seed, i, tally);
  if (HasFatalFailure()) return;
  std::cout << tally.cases << " cases, " << tally.of_owner << " decided by owner, " << tally.of_link
            << " by link, " << tally.shadowed << " rules shadowed\n";
  EXPECT_EQ(tally.cases, size_t{policies} * 500);
  EXPECT_GT(tally.of_owner, tally.cases / 10);
  EXPECT_GT(tally.of_link, tally.cases / 100);
  EXPECT_GT(tally.shadowed, policies / 10);
}

}  // namespace
}  // namespace tpx::policy
