// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tpx/policy/compile.h"

namespace tpx::policy {
namespace {

using Pairs = std::vector<std::pair<size_t, size_t>>;

Prefix Net(std::string_view text) { return *Prefix::Parse(text); }

Pairs ShadowedOf(std::vector<Rule> rules) {
  rules.push_back({.name = "default"});
  const Policy policy{std::move(rules)};
  absl::StatusOr<CompiledPolicy> compiled = Compile(policy);
  EXPECT_TRUE(compiled.ok()) << compiled.status();
  Pairs pairs;
  for (const Shadowed& s : FindShadowed(policy, *compiled)) pairs.emplace_back(s.rule, s.by);
  return pairs;
}

TEST(FindShadowed, FindsSupersetsInEveryDimension) {
  Rule wide{
      .protocols = {6, 17}, .src = {Net("10.0.0.0/8")}, .dst = {Net("2001:db8::/32")}, .dports = {{80, 90}}};
  Rule narrow{
      .protocols = {6}, .src = {Net("10.1.0.0/16")}, .dst = {Net("2001:db8:1::/48")}, .dports = {{85, 85}}};
  EXPECT_EQ(ShadowedOf({wide, narrow}), (Pairs{{1, 0}}));
  EXPECT_EQ(ShadowedOf({narrow, wide}), Pairs());
  for (auto change : {+[](Rule& r) {
                        r.protocols = {};
                        r.dports = {};
                      },
                      +[](Rule& r) { r.src = {Net("11.0.0.0/8")}; }, +[](Rule& r) { r.dst = {}; },
                      +[](Rule& r) {
                        r.dports = {{85, 91}};
                      }}) {
    Rule other = narrow;
    change(other);
    EXPECT_EQ(ShadowedOf({wide, other}), Pairs());
  }
}

TEST(FindShadowed, NamesTheFirstOfSeveral) {
  EXPECT_EQ(ShadowedOf({Rule{.protocols = {6}}, Rule{.protocols = {6}}, Rule{.protocols = {6}}}),
            (Pairs{{1, 0}, {2, 0}}));
}

TEST(FindShadowed, KnowsThatProxyingConcernsTcpAndUdpAlone) {
  for (tpx_action action : {TPX_ACTION_PROXY, TPX_ACTION_REDIRECT}) {
    EXPECT_EQ(ShadowedOf({Rule{.action = action}, Rule{}}), (Pairs{{2, 1}}));
    EXPECT_EQ(ShadowedOf({Rule{.protocols = {6, 17}}, Rule{.action = action}}), (Pairs{{1, 0}}));
    EXPECT_EQ(ShadowedOf({Rule{.protocols = {6}}, Rule{.action = action}}), Pairs());
  }
}

TEST(FindShadowed, KnowsThatBothFamiliesTogetherAreEverything) {
  Rule all{.src = {Net("::/0"), Net("0.0.0.0/0")}};
  EXPECT_EQ(ShadowedOf({all}), (Pairs{{1, 0}}));
  EXPECT_EQ(ShadowedOf({Rule{.src = {Net("::/0")}}}), Pairs());
}

TEST(FindShadowed, RulesThatMatchNothingNeitherShadowNorAreShadowed) {
  EXPECT_EQ(ShadowedOf({Rule{.protocols = {6}, .matches_nothing = true}, Rule{.protocols = {6}},
                        Rule{.protocols = {6}, .matches_nothing = true}}),
            Pairs());
}

}  // namespace
}  // namespace tpx::policy
