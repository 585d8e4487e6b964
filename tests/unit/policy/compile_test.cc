// SPDX-License-Identifier: Apache-2.0
#include "tpx/policy/compile.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>

#include <random>

#include "support/reference_policy.h"
#include "tpx/base/strings.h"

namespace tpx::policy {
namespace {

using testing::HasSubstr;

IpAddr Address(std::string_view text) { return *IpAddr::Parse(text); }
Prefix Net(std::string_view text) { return *Prefix::Parse(text); }

Policy WithDefault(std::vector<Rule> rules, tpx_action action = TPX_ACTION_BYPASS) {
  rules.push_back({.name = "default", .action = action});
  return {std::move(rules)};
}

CompiledPolicy Compiled(const Policy& policy) {
  absl::StatusOr<CompiledPolicy> compiled = Compile(policy);
  EXPECT_TRUE(compiled.ok()) << compiled.status();
  return *std::move(compiled);
}

bool Has(const tpx_bits& bits, size_t rule) { return (bits.word[rule / 64] >> (rule % 64) & 1) != 0; }

void ExpectSummaryFits(const tpx_bits& bits) {
  for (size_t i = 0; i < TPX_RULE_WORDS; ++i) EXPECT_EQ((bits.summary >> i & 1) != 0, bits.word[i] != 0);
  EXPECT_EQ(bits.summary >> TPX_RULE_WORDS, 0u);
}

TEST(Compile, PolicyOfTheDefaultAloneNeedsNoPrefixes) {
  CompiledPolicy compiled = Compiled(WithDefault({}, TPX_ACTION_DROP));
  const tpx_tables& t = *compiled.tables;
  EXPECT_EQ(t.generation, 0u);
  EXPECT_EQ(t.n_rules, 1u);
  EXPECT_EQ(t.n_prefixes[0] + t.n_prefixes[1], 0u);
  EXPECT_EQ(t.classify_others, 1u);
  EXPECT_EQ(t.rules[0].action, TPX_ACTION_DROP);
  EXPECT_TRUE(Has(t.bits[t.miss_class[TPX_DIM_SRC]], 0));
  EXPECT_TRUE(Has(t.portless, 0));
  EXPECT_TRUE(Has(t.denying, 0));
  EXPECT_EQ(TableInterpreter(compiled).Evaluate({}), 0u);
}

TEST(Compile, RefusesPoliciesThatMayMatchNothing) {
  EXPECT_EQ(Compile({}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Compile({{Rule{.protocols = {IPPROTO_TCP}}}}).status().code(),
            absl::StatusCode::kInvalidArgument);
  for (tpx_action action : {TPX_ACTION_PROXY, TPX_ACTION_REDIRECT}) {
    EXPECT_EQ(Compile({{Rule{.action = action}}}).status().code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(Compile({{Rule{.matches_nothing = true}}}).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(Compile, NamesTheLimitThatIsPassed) {
  std::vector<Rule> rules(TPX_MAX_RULES, Rule{.action = TPX_ACTION_DROP});
  EXPECT_THAT(std::string(Compile(WithDefault(rules)).status().message()), HasSubstr("TPX_MAX_RULES"));
  rules.pop_back();
  EXPECT_TRUE(Compile(WithDefault(rules)).ok());

  Rule wide{.action = TPX_ACTION_DROP};
  for (uint32_t i = 0; i <= TPX_MAX_PREFIXES; ++i) {
    wide.dst.push_back({IpAddr{.raw = {{htonl(0x20010db8), htonl(i), 0, 0}}}, 64});
  }
  EXPECT_THAT(std::string(Compile(WithDefault({wide})).status().message()), HasSubstr("TPX_MAX_PREFIXES"));
  wide.dst.pop_back();
  EXPECT_TRUE(Compile(WithDefault({wide})).ok());

  rules.clear();
  std::mt19937 random(1);
  for (uint32_t i = 0; i < 1000; ++i) {
    Rule rule{.action = TPX_ACTION_DROP};
    for (uint32_t j = 0; j < 40; ++j) {
      rule.src.push_back({IpAddr{.raw = {{htonl(0x20010db8), htonl(random() % 9000), 0, 0}}}, 64});
    }
    rules.push_back(rule);
  }
  EXPECT_THAT(std::string(Compile(WithDefault(rules)).status().message()), HasSubstr("TPX_MAX_CLASSES"));
}

TEST(Compile, MarksRulesThatDeny) {
  std::vector<Rule> rules = {{.action = TPX_ACTION_DROP}, {.action = TPX_ACTION_REJECT}};
  for (tpx_action action : {TPX_ACTION_PROXY, TPX_ACTION_REDIRECT}) {
    for (tpx_fail_mode mode : {TPX_FAIL_OPEN, TPX_FAIL_CLOSED, TPX_FAIL_RESET}) {
      rules.push_back({.protocols = {IPPROTO_UDP}, .action = action, .fail_mode = mode});
    }
  }
  CompiledPolicy compiled = Compiled(WithDefault(rules));
  EXPECT_EQ(compiled.tables->denying.word[0], 0b011011011u);
  ExpectSummaryFits(compiled.tables->denying);
}

TEST(Compile, WritesWhatTheRulesSay) {
  CompiledPolicy compiled =
      Compiled(WithDefault({Rule{.action = TPX_ACTION_PROXY,
                                 .fail_mode = TPX_FAIL_RESET,
                                 .source = TPX_SOURCE_PRESERVE,
                                 .mapping = TPX_MAPPING_ADDRESS_AND_PORT_DEPENDENT},
                            Rule{.action = TPX_ACTION_REDIRECT, .target = {Address("127.0.0.1"), 5353}},
                            Rule{.action = TPX_ACTION_REDIRECT, .target = {Address("2001:db8::53"), 53}}}));
  const tpx_rule* rules = compiled.tables->rules;
  EXPECT_EQ(rules[0].action, TPX_ACTION_PROXY);
  EXPECT_EQ(rules[0].fail_mode, TPX_FAIL_RESET);
  EXPECT_EQ(rules[0].source, TPX_SOURCE_PRESERVE);
  EXPECT_EQ(rules[0].mapping, TPX_MAPPING_ADDRESS_AND_PORT_DEPENDENT);
  EXPECT_EQ(rules[0].to.port, 0);
  EXPECT_EQ(rules[1].action, TPX_ACTION_REDIRECT);
  EXPECT_EQ(IpAddr{rules[1].to.addr}.ToString(), "127.0.0.1");
  EXPECT_EQ(rules[1].to.port, htons(5353));
  EXPECT_EQ(IpAddr{rules[2].to.addr}.ToString(), "2001:db8::53");
  EXPECT_EQ(rules[2].to.port, htons(53));
}

TEST(Compile, OnlyTcpAndUdpAreProxiedWhateverTheListSays) {
  for (tpx_action action : {TPX_ACTION_PROXY, TPX_ACTION_REDIRECT}) {
    for (std::vector<uint8_t> list : {std::vector<uint8_t>{}, {1, 6, 17, 47, 58, 132}}) {
      CompiledPolicy compiled = Compiled(WithDefault({Rule{.protocols = list, .action = action}}));
      TableInterpreter tables(compiled);
      for (int protocol = 0; protocol < 256; ++protocol) {
        const bool taken = protocol == IPPROTO_TCP || protocol == IPPROTO_UDP;
        EXPECT_EQ(tables.Evaluate({.protocol = static_cast<uint8_t>(protocol)}), taken ? 0u : 1u) << protocol;
      }
    }
  }
}

TEST(Compile, MarksRulesThatAcceptEveryPort) {
  CompiledPolicy compiled = Compiled(
      WithDefault({Rule{.dports = {{80, 80}}}, Rule{.sports = {{0, 65535}}},
                   Rule{.sports = {{0, 99}, {101, 65535}}}, Rule{.sports = {{100, 65535}, {0, 99}}}}));
  EXPECT_EQ(compiled.tables->portless.word[0], 0b11010u);
}

TEST(Compile, ClassifiesOtherProtocolsOnlyWhereTheyMayBeStopped) {
  auto others = [](Rule rule) { return Compiled(WithDefault({std::move(rule)})).tables->classify_others; };
  EXPECT_EQ(others({.protocols = {6}, .action = TPX_ACTION_DROP}), 0u);
  EXPECT_EQ(others({.protocols = {6, 17}, .action = TPX_ACTION_DROP}), 0u);
  EXPECT_EQ(others({.protocols = {1, 58}, .action = TPX_ACTION_DROP}), 1u);
  EXPECT_EQ(others({.protocols = {17, 58}, .action = TPX_ACTION_REJECT}), 1u);
  EXPECT_EQ(others({.protocols = {1}, .action = TPX_ACTION_BYPASS}), 0u);
  EXPECT_EQ(others({.protocols = {17}, .action = TPX_ACTION_BYPASS}), 0u);
  EXPECT_EQ(others({.action = TPX_ACTION_PROXY, .fail_mode = TPX_FAIL_CLOSED}), 0u);
  EXPECT_EQ(others({.action = TPX_ACTION_REDIRECT, .fail_mode = TPX_FAIL_CLOSED}), 0u);
  EXPECT_EQ(others({.action = TPX_ACTION_REJECT}), 1u);
  EXPECT_EQ(others({.dports = {{53, 53}}, .action = TPX_ACTION_DROP}), 0u);
  EXPECT_EQ(others({.protocols = {47}, .dports = {{53, 53}}, .action = TPX_ACTION_DROP}), 0u);
  EXPECT_EQ(others({.action = TPX_ACTION_DROP, .matches_nothing = true}), 0u);
}

TEST(Compile, AllOfIpv6IsNotIpv4) {
  CompiledPolicy compiled =
      Compiled(WithDefault({Rule{.dst = {Net("::/0")}, .action = TPX_ACTION_DROP},
                            Rule{.dst = {Net("192.0.2.0/24")}, .action = TPX_ACTION_REJECT}}));
  EXPECT_EQ(compiled.tables->n_prefixes[TPX_DIM_DST], 3u);
  TableInterpreter tables(compiled);
  EXPECT_EQ(tables.Evaluate({.dst = Address("2001:db8::1")}), 0u);
  EXPECT_EQ(tables.Evaluate({.dst = Address("192.0.2.1")}), 1u);
  EXPECT_EQ(tables.Evaluate({.dst = Address("198.51.100.1")}), 2u);
}

TEST(Compile, LeavesOutPrefixesThatChangeNothing) {
  Rule rule{.src = {Net("10.0.0.0/8"), Net("10.1.0.0/16"), Net("10.1.2.0/24")}, .action = TPX_ACTION_DROP};
  CompiledPolicy compiled = Compiled(WithDefault({rule}));
  EXPECT_EQ(compiled.tables->n_prefixes[TPX_DIM_SRC], 1u);
  EXPECT_EQ(TableInterpreter(compiled).Evaluate({.src = Address("10.1.2.3")}), 0u);
}

TEST(Compile, SharesSetsBetweenDimensions) {
  Rule rule{.src = {Net("10.0.0.0/8")}, .dst = {Net("10.0.0.0/8")}, .action = TPX_ACTION_DROP};
  CompiledPolicy compiled = Compiled(WithDefault({rule}));
  const tpx_tables& t = *compiled.tables;
  EXPECT_EQ(t.miss_class[TPX_DIM_SRC], t.miss_class[TPX_DIM_DST]);
  EXPECT_EQ(compiled.prefixes[TPX_DIM_SRC][0].second, t.proto_class[IPPROTO_TCP]);
  for (const tpx_bits& bits : t.bits) ExpectSummaryFits(bits);
}

TEST(Compile, TakesAThousandRulesAndAHundredThousandPrefixes) {
  std::vector<Rule> rules;
  for (uint32_t i = 0; i < 1000; ++i) {
    Rule rule{.name = StrCat("r", i), .action = TPX_ACTION_DROP};
    for (uint32_t j = 0; j < 100; ++j) {
      uint32_t net = (i * 100 + j) * 2654435761u & ~255u;
      rule.dst.push_back({IpAddr{.raw = {{0, 0, htonl(0xffff), htonl(net)}}}, 120});
    }
    rules.push_back(std::move(rule));
  }
  Policy policy = WithDefault(std::move(rules));
  CompiledPolicy compiled = Compiled(policy);
  EXPECT_GT(compiled.tables->n_prefixes[TPX_DIM_DST], 90'000u);
  TableInterpreter tables(compiled);
  for (size_t i = 0; i < 1000; i += 97) {
    TestFlow flow{.dst = policy.rules[i].dst[0].addr};
    EXPECT_EQ(tables.Evaluate(flow), FirstMatch(policy, flow));
  }
}

}  // namespace
}  // namespace tpx::policy
