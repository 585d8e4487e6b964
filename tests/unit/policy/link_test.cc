// SPDX-License-Identifier: Apache-2.0
// Rules that ask for the link, and rules that negate: from the text to the tables.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "support/config_files.h"
#include "support/reference_policy.h"
#include "tpx/base/strings.h"

namespace tpx::policy {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

Rule ParsedRule(std::string_view match, std::string_view action = "drop") {
  ParseResult result =
      ParseText(StrCat("version: 1\ninterfaces: {lan: eth1}\nrules:\n  - {name: a, match: ", match,
                       ", action: ", action, "}\n"));
  EXPECT_TRUE(result.ok()) << AllText(result.errors);
  return result.ok() ? result.config.policy.rules[0] : Rule{};
}

TEST(LinkMatch, ReadsEveryKey) {
  const Rule rule = ParsedRule(
      "{interface: [lan1, 'veth*'], mac: '00:53:00:Ab:cd:EF', dscp: [ef, 10, default], mark: [0x10/0xf0, "
      "7]}");
  EXPECT_THAT(rule.interfaces, ElementsAre("lan1", "veth*"));
  EXPECT_THAT(rule.macs, ElementsAre(MacAddress{0x00, 0x53, 0x00, 0xab, 0xcd, 0xef}));
  EXPECT_THAT(rule.dscps, ElementsAre(46, 10, 0));
  EXPECT_THAT(rule.marks, ElementsAre(MarkMatch{0x10, 0xf0}, MarkMatch{7, 0xffffffff}));
  EXPECT_EQ(rule.negated, 0u);
}

TEST(LinkMatch, Not) {
  const Rule rule = ParsedRule(
      "{interface: {not: lan1}, mac: {not: ['00:53:00:00:00:01']}, mark: {not: 1}, src: {not: 192.0.2.0/24}, "
      "dst: {not: ['2001:db8::/32']}}");
  EXPECT_EQ(rule.negated, kMatchInterface | kMatchMac | kMatchMark | kMatchSrc | kMatchDst);
}

TEST(LinkMatch, NotOfNumbersIsTheListOfAllOthers) {
  EXPECT_THAT(ParsedRule("{dport: {not: [80, 1000-2000]}}").dports,
              ElementsAre(PortRange{0, 79}, PortRange{81, 999}, PortRange{2001, 65535}));
  EXPECT_THAT(ParsedRule("{sport: {not: 0}}").sports, ElementsAre(PortRange{1, 65535}));
  EXPECT_EQ(ParsedRule("{dscp: {not: [0, 63]}}").dscps.size(), 62u);
  const Rule others = ParsedRule("{proto: {not: icmp}}");
  EXPECT_EQ(others.protocols.size(), 253u);
  EXPECT_THAT(ParsedRule("{proto: {not: udp}}", "proxy").protocols, ElementsAre(6)) << "only tcp is left";
}

// Whoever excludes what an empty set holds excludes nothing.
TEST(LinkMatch, NotAnEmptySet) {
  ParseResult result = ParseText(
      "version: 1\ninterfaces: {lan: eth1}\nsets: {none: []}\nrules:\n"
      "  - {name: a, match: {src: {not: none}}, action: drop}\n");
  ASSERT_TRUE(result.ok()) << AllText(result.errors);
  EXPECT_FALSE(result.config.policy.rules[0].matches_nothing);
  EXPECT_EQ(result.config.policy.rules[0].negated, 0u);
}

TEST(LinkMatch, LimitsAreNamed) {
  Policy policy;
  for (uint32_t i = 0; i <= TPX_MAX_MARKS; ++i) policy.rules.push_back({.marks = {{i, 0xff}}});
  policy.rules.push_back({});
  EXPECT_THAT(std::string(Compile(policy).status().message()), HasSubstr("TPX_MAX_MARKS"));
}

std::vector<std::pair<size_t, size_t>> ShadowedOf(std::vector<Rule> rules) {
  const Policy policy{std::move(rules)};
  const auto compiled = Compile(policy);
  EXPECT_TRUE(compiled.ok()) << compiled.status();
  std::vector<std::pair<size_t, size_t>> pairs;
  for (const Shadowed& s : FindShadowed(policy, *compiled)) pairs.emplace_back(s.rule, s.by);
  return pairs;
}

TEST(LinkMatch, ShadowedRules) {
  const std::pair<size_t, size_t> second_by_first{1, 0};
  auto shadowed = [](Rule first, Rule second) { return ShadowedOf({first, second, {}}); };
  EXPECT_THAT(shadowed({.interfaces = {"veth*"}}, {.interfaces = {"veth1"}}), ElementsAre(second_by_first));
  EXPECT_THAT(shadowed({.interfaces = {"veth?"}}, {.interfaces = {"veth*"}}), IsEmpty());
  EXPECT_THAT(shadowed({.interfaces = {"veth1"}}, {.interfaces = {"veth*"}}), IsEmpty());
  EXPECT_THAT(shadowed({.dscps = {1, 2}}, {.dscps = {2}}), ElementsAre(second_by_first));
  EXPECT_THAT(shadowed({.dscps = {2}}, {.macs = {MacAddress{}}, .dscps = {2}}), ElementsAre(second_by_first));
  EXPECT_THAT(shadowed({.macs = {MacAddress{}}}, {.dscps = {2}}), IsEmpty());
  EXPECT_THAT(shadowed({.marks = {{1, 1}}, .negated = kMatchMark}, {.marks = {{1, 1}}}), IsEmpty());
}

// Few values of each kind, so that rules and flows meet.
class RandomLinks {
 public:
  explicit RandomLinks(uint32_t seed) : random_(seed) {}

  Policy MakePolicy() {
    Policy policy;
    for (size_t i = 0, n = 1 + Below(12); i < n; ++i) policy.rules.push_back(MakeRule());
    policy.rules.push_back({});
    return policy;
  }
  TestFlow MakeFlow() {
    TestFlow flow{.src = Address(), .dst = Address(), .protocol = 17, .sport = 1, .dport = 2};
    flow.device = {};
    flow.mac = Mac();
    flow.dscp = Dscp();
    flow.mark = Below(4);
    return flow;
  }

 private:
  uint32_t Below(uint32_t n) { return random_() % n; }
  MacAddress Mac() { return {0, 0x53, 0, 0, 0, static_cast<uint8_t>(Below(4))}; }
  uint8_t Dscp() { return static_cast<uint8_t>(Below(4) * 21); }
  IpAddr Address() {
    return *IpAddr::Parse(Below(2) == 0 ? StrCat("192.0.2.", Below(8)) : StrCat("2001:db8::", Below(8)));
  }
  Rule MakeRule() {
    Rule rule;
    auto some = [this](auto& list, auto make) {
      if (Below(3) != 0) return;
      for (uint32_t n = 1 + Below(3); n > 0; --n) list.push_back(make());
    };
    some(rule.macs, [this] { return Mac(); });
    some(rule.dscps, [this] { return Dscp(); });
    some(rule.marks, [this] {
      const uint32_t mask = Below(4);
      return MarkMatch{Below(4) & mask, mask};
    });
    auto prefix = [this] {
      Prefix p{.addr = Address(), .length = static_cast<uint8_t>(125 + Below(4))};
      p.addr.raw.w[3] &= htonl(~0u << (128 - p.length));
      return p;
    };
    some(rule.src, prefix);
    some(rule.dst, prefix);
    rule.negated = random_() & (kMatchSrc | kMatchDst | kMatchMac | kMatchMark);
    return rule;
  }

  std::mt19937 random_;
};

TEST(LinkMatch, TablesMeanWhatTheRulesMean) {
  const uint32_t seed = std::random_device{}();
  RecordProperty("seed", StrCat(seed));
  RandomLinks random(seed);
  int compiled_policies = 0;
  for (int i = 0; i < 60; ++i) {
    const Policy policy = random.MakePolicy();
    const auto compiled = Compile(policy);
    if (absl::IsResourceExhausted(compiled.status())) continue;  // more than eight different marks
    ASSERT_TRUE(compiled.ok()) << compiled.status();
    ++compiled_policies;
    const TableInterpreter tables(*compiled);
    for (int j = 0; j < 500; ++j) {
      const TestFlow flow = random.MakeFlow();
      ASSERT_EQ(tables.Evaluate(flow), FirstMatch(policy, flow)) << "seed " << seed << ", policy " << i;
    }
  }
  EXPECT_GT(compiled_policies, 20);
}

}  // namespace
}  // namespace tpx::policy
