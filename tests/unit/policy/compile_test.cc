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
  EXPECT_TRUE(compiled.pages[0].empty() && compiled.pages[1].empty());
  for (const auto& dimension : t.root)
    EXPECT_TRUE(dimension[0] < TPX_STEP_BLOCK && dimension[1] < TPX_STEP_BLOCK);
  EXPECT_EQ(t.classify_others, 1u);
  EXPECT_EQ(t.rules[0].action, TPX_ACTION_DROP);
  EXPECT_TRUE(Has(t.bits[t.miss_class[TPX_DIM_SRC]], 0));
  EXPECT_TRUE(Has(t.bits[t.portless_class], 0));
  EXPECT_TRUE(Has(t.bits[t.denying_class], 0));
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
  for (uint32_t i = 0; i <= TPX_MAX_PREFIXES; ++i) {  // neighbours would be one range
    wide.dst.push_back({IpAddr{.raw = {{htonl(0x20010db8), htonl(2 * i), 0, 0}}}, 64});
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

TEST(Compile, MarksRulesThatDenyAndThatSteer) {
  std::vector<Rule> rules = {{.action = TPX_ACTION_DROP}, {.action = TPX_ACTION_REJECT}};
  for (tpx_action action : {TPX_ACTION_PROXY, TPX_ACTION_REDIRECT}) {
    for (tpx_fail_mode mode : {TPX_FAIL_OPEN, TPX_FAIL_CLOSED, TPX_FAIL_RESET}) {
      rules.push_back({.protocols = {IPPROTO_UDP}, .action = action, .fail_mode = mode});
    }
  }
  CompiledPolicy compiled = Compiled(WithDefault(rules));
  EXPECT_EQ(compiled.tables->bits[compiled.tables->denying_class].word[0], 0b011011011u);
  ExpectSummaryFits(compiled.tables->bits[compiled.tables->denying_class]);
  EXPECT_EQ(compiled.tables->bits[compiled.tables->steering_class].word[0], 0b011111100u);
  ExpectSummaryFits(compiled.tables->bits[compiled.tables->steering_class]);
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
  EXPECT_EQ(compiled.tables->bits[compiled.tables->portless_class].word[0], 0b11010u);
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

TEST(Compile, SaysWhetherSomeRuleForwards) {
  const CompiledPolicy with = Compiled(WithDefault({Rule{}, Rule{.forward = TPX_FORWARD_FIB}}));
  EXPECT_EQ(with.tables->forwards, 1u);
  EXPECT_EQ(with.tables->rules[0].forward, TPX_FORWARD_STACK);
  EXPECT_EQ(with.tables->rules[1].forward, TPX_FORWARD_FIB);
  EXPECT_EQ(Compiled(WithDefault({Rule{}})).tables->forwards, 0u);
  const CompiledPolicy proxied =
      Compiled(WithDefault({Rule{.action = TPX_ACTION_PROXY, .forward = TPX_FORWARD_FIB}}));
  EXPECT_EQ(proxied.tables->forwards, 0u) << "sessions have entries of their own";
  EXPECT_EQ(proxied.tables->rules[0].forward, TPX_FORWARD_FIB);
  const CompiledPolicy by_default =
      Compiled(WithDefault({Rule{.action = TPX_ACTION_PROXY, .forward = TPX_FORWARD_AUTO}}));
  EXPECT_EQ(by_default.tables->forwards, 0u);
  EXPECT_EQ(by_default.tables->rules[0].forward, TPX_FORWARD_AUTO);
}

TEST(Compile, AllOfIpv6IsNotIpv4) {
  CompiledPolicy compiled =
      Compiled(WithDefault({Rule{.dst = {Net("::/0")}, .action = TPX_ACTION_DROP},
                            Rule{.dst = {Net("192.0.2.0/24")}, .action = TPX_ACTION_REJECT}}));
  TableInterpreter tables(compiled);
  EXPECT_EQ(tables.Evaluate({.dst = Address("2001:db8::1")}), 0u);
  EXPECT_EQ(tables.Evaluate({.dst = Address("192.0.2.1")}), 1u);
  EXPECT_EQ(tables.Evaluate({.dst = Address("198.51.100.1")}), 2u);
}

TEST(Compile, PrefixesThatChangeNothingCostNothing) {
  Rule rule{.src = {Net("10.0.0.0/8"), Net("10.1.0.0/16"), Net("10.1.2.0/24")}, .action = TPX_ACTION_DROP};
  CompiledPolicy compiled = Compiled(WithDefault({rule}));
  const tpx_tables& t = *compiled.tables;
  const uint16_t root = t.root[TPX_DIM_SRC][1];
  ASSERT_NE(root & TPX_STEP_BLOCK, 0);
  for (uint16_t step : t.block[root & ~TPX_STEP_BLOCK]) EXPECT_EQ(step & TPX_STEP_BLOCK, 0);
  EXPECT_EQ(TableInterpreter(compiled).Evaluate({.src = Address("10.1.2.3")}), 0u);
}

TEST(Compile, AFamilyThatNeedsTooManyBlocksLeavesThemToTheOther) {
  Rule rule{.dst = {Net("2001:db8::/32")}, .action = TPX_ACTION_DROP};
  for (uint32_t i = 0; i < TPX_MAX_BLOCKS / 2; ++i) {
    rule.dst.push_back({IpAddr{.raw = {{0, 0, htonl(0xffff), htonl(0x0a000007 + (i << 8))}}}, 128});
  }
  CompiledPolicy compiled = Compiled(WithDefault({rule}));
  const auto& root = compiled.tables->root[TPX_DIM_DST];
  EXPECT_EQ(root[1], TPX_STEP_SEARCH);
  EXPECT_NE(root[0], TPX_STEP_SEARCH);
  EXPECT_TRUE(compiled.pages[TPX_DIM_SRC].empty());
  TableInterpreter tables(compiled);
  for (const char* dst : {"2001:db8::1", "10.0.0.7", "10.7.255.7"})
    EXPECT_EQ(tables.Evaluate({.dst = Address(dst)}), 0u) << dst;
  for (const char* dst : {"2001:db9::1", "10.0.0.6", "10.0.0.8", "10.8.0.7", "0.0.0.0", "255.255.255.255"})
    EXPECT_EQ(tables.Evaluate({.dst = Address(dst)}), 1u) << dst;
}

TEST(Compile, TheClassesThatMostNetworksHaveTakeNoSearch) {
  Rule half{.dst = {Net("128.0.0.0/1")}, .action = TPX_ACTION_DROP};
  Rule hosts{.action = TPX_ACTION_DROP};
  for (uint32_t i = 0; i < TPX_MAX_BLOCKS; ++i)
    hosts.dst.push_back({IpAddr{.raw = {{0, 0, htonl(0xffff), htonl(i << 16)}}}, 128});
  CompiledPolicy compiled = Compiled(WithDefault({hosts, half}));
  ASSERT_EQ(compiled.tables->root[TPX_DIM_DST][1], TPX_STEP_SEARCH);
  const auto& classes = compiled.tables->v4_class[TPX_DIM_DST];
  EXPECT_NE(classes[0], compiled.tables->miss_class[TPX_DIM_DST]);
  EXPECT_EQ(classes[1], compiled.tables->miss_class[TPX_DIM_DST]);
  EXPECT_EQ(classes[2], TPX_STEP_SEARCH);
  EXPECT_EQ(classes[3], TPX_STEP_SEARCH);
  auto two_bits = [&](uint32_t net) {
    return compiled.pages[TPX_DIM_DST].at(net / 16 / TPX_PAGE_WORDS).word[net / 16 % TPX_PAGE_WORDS] >>
               net % 16 * 2 &
           3;
  };
  EXPECT_EQ(two_bits(0), 3u);
  EXPECT_EQ(two_bits(1), 1u);
  EXPECT_EQ(two_bits((1u << TPX_V4_NET_BITS) - 1), 0u);
}

TEST(Compile, SharesSetsBetweenDimensions) {
  Rule rule{.src = {Net("10.0.0.0/8")}, .dst = {Net("10.0.0.0/8")}, .action = TPX_ACTION_DROP};
  CompiledPolicy compiled = Compiled(WithDefault({rule}));
  const tpx_tables& t = *compiled.tables;
  EXPECT_EQ(t.miss_class[TPX_DIM_SRC], t.miss_class[TPX_DIM_DST]);
  const uint16_t root = t.root[TPX_DIM_SRC][1];
  ASSERT_NE(root & TPX_STEP_BLOCK, 0);
  EXPECT_EQ(t.block[root & ~TPX_STEP_BLOCK][10], t.proto_class[IPPROTO_TCP]);
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
  EXPECT_EQ(compiled.tables->root[TPX_DIM_DST][1], TPX_STEP_SEARCH);
  TableInterpreter tables(compiled);
  for (size_t i = 0; i < 1000; i += 97) {
    TestFlow flow{.dst = policy.rules[i].dst[0].addr};
    EXPECT_EQ(tables.Evaluate(flow), FirstMatch(policy, flow));
  }
}

}  // namespace
}  // namespace tpx::policy
