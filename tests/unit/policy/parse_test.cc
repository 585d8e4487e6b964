// SPDX-License-Identifier: Apache-2.0
#include "tpx/policy/parse.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "support/config_files.h"
#include "support/scale.h"
#include "tpx/base/strings.h"

namespace tpx::policy {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr std::string_view kHead = "version: 1\ninterfaces: {lan: eth1}\n";

Config Parsed(const std::string& text) {
  ParseResult result = ParseText(text);
  EXPECT_TRUE(result.ok()) << AllText(result.errors);
  return result.config;
}

Rule FirstRule(std::string_view rule, std::string_view head = kHead) {
  return Parsed(StrCat(head, "rules:\n  - ", rule, "\n")).policy.rules[0];
}

std::vector<Prefix> Nets(std::initializer_list<std::string_view> texts) {
  std::vector<Prefix> nets;
  for (std::string_view text : texts) nets.push_back(*Prefix::Parse(text));
  return nets;
}

TEST(ParseConfig, ReadsEveryKey) {
  ParseResult result = ParseFile(TPX_SOURCE_DIR "/tests/configs/good/full.yaml");
  ASSERT_TRUE(result.ok()) << AllText(result.errors);
  const Config& c = result.config;
  EXPECT_THAT(c.interfaces.lan, ElementsAre("eth1", "veth*"));
  EXPECT_THAT(c.interfaces.wan, ElementsAre("eth0"));
  EXPECT_EQ(c.local, (Local{.enabled = true, .cgroup = "/user.slice"}));
  EXPECT_EQ(c.steering, (Steering{0x0f000000, 0x01000000, 0x02000000, 300, 50, AttachMode::kClsact}));
  EXPECT_EQ(c.xdp, XdpMode::kNative);
  Timeouts timeouts{.connect_ms = 500,
                    .idle_ms = 3'600'000,
                    .half_closed_ms = 300'000,
                    .drain_ms = 0,
                    .lease_ms = 2'000,
                    .keepalive_idle_s = 60,
                    .keepalive_interval_s = 10,
                    .keepalive_count = 3,
                    .udp_one_way_ms = 20'000,
                    .udp_answered_ms = 5'000,
                    .udp_stream_ms = 300'000};
  EXPECT_EQ(c.proxy, (Proxy{.workers = 2,
                            .max_sessions = 10'000,
                            .pipes = 16,
                            .max_udp_sessions = 20'000,
                            .max_udp_sessions_per_client = 500,
                            .udp_reply_sockets = 256,
                            .timeouts = timeouts}));
  ASSERT_EQ(c.policy.rules.size(), 15u);
  EXPECT_EQ(c.policy.rules[0], (Rule{.name = "blocked",
                                     .dst = Nets({"198.51.100.7", "203.0.113.0/24", "2001:db8:bad::/48"}),
                                     .action = TPX_ACTION_DROP,
                                     .line = 11,
                                     .column = 5}));
  EXPECT_EQ(c.policy.rules[3],
            (Rule{.name = "web",
                  .protocols = {6},
                  .src = Nets({"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"}),
                  .dports = {{80, 80}, {443, 443}, {8000, 8100}},
                  .action = TPX_ACTION_PROXY,
                  .fail_mode = TPX_FAIL_CLOSED,
                  .source = TPX_SOURCE_MASQUERADE,
                  .limit = {.per_second = 100, .burst = 200, .penalty_s = 60},
                  .line = 14,
                  .column = 5}));
  EXPECT_EQ(c.policy.rules[1].log, TPX_LOG_SAMPLE);
  EXPECT_EQ(c.policy.rules[4].source, TPX_SOURCE_PRESERVE);
  EXPECT_EQ(c.policy.rules[4].fail_mode, TPX_FAIL_RESET);
  EXPECT_EQ(c.policy.rules[4].mapping, TPX_MAPPING_ENDPOINT_INDEPENDENT);
  EXPECT_EQ(c.policy.rules[5].mapping, TPX_MAPPING_ADDRESS_AND_PORT_DEPENDENT);
  EXPECT_EQ(c.policy.rules[6], (Rule{.name = "names",
                                     .protocols = {6, 17},
                                     .dports = {{53, 53}},
                                     .action = TPX_ACTION_REDIRECT,
                                     .fail_mode = TPX_FAIL_OPEN,
                                     .mapping = TPX_MAPPING_ADDRESS_AND_PORT_DEPENDENT,
                                     .target = {*IpAddr::Parse("127.0.0.1"), 5353},
                                     .forward = TPX_FORWARD_AUTO,
                                     .line = 17,
                                     .column = 5}));
  EXPECT_EQ(c.policy.rules[7].target, (Endpoint{*IpAddr::Parse("::1"), 53}));
  EXPECT_EQ(
      c.policy.rules[11],
      (Rule{.name = "guests", .vlans = {100, 4094}, .forward = TPX_FORWARD_FIB, .line = 34, .column = 5}));
  EXPECT_EQ(c.policy.rules[12], (Rule{.name = "own",
                                      .uids = {{1, 1}, {33, 33}, {2000, 2010}},
                                      .gids = {{0, 0}, {1, 1}},
                                      .cgroups = {{"/user.slice", 10}, {"/system.slice", 20}},
                                      .programs = {{"/usr/bin/curl", {100, 7}}, {"/usr/bin/dig", {101, 7}}},
                                      .negated = kMatchGid | kMatchExe,
                                      .line = 35,
                                      .column = 5}));
  EXPECT_THAT(c.policy.rules[13].protocols, ElementsAre(47, 132));
  EXPECT_EQ(c.policy.rules[14], (Rule{.name = "default"}));
}

TEST(ParseConfig, KeepsTheDefaultsOfWhatIsNotWritten) {
  Config c = Parsed(std::string(kHead));
  EXPECT_EQ(c.steering, Steering());
  EXPECT_EQ(c.proxy, Proxy());
  EXPECT_THAT(c.policy.rules, ElementsAre(Rule{.name = "default", .action = TPX_ACTION_BYPASS}));
}

TEST(ParseConfig, LocalFlowsAreOffUnlessTheFileNamesThem) {
  auto local = [](std::string_view text) { return Parsed(StrCat(kHead, text)).local; };
  EXPECT_EQ(local(""), (Local{.enabled = false, .cgroup = "/"}));
  EXPECT_EQ(local("local: false\n"), (Local{.enabled = false, .cgroup = "/"}));
  EXPECT_EQ(local("local: true\n"), (Local{.enabled = true, .cgroup = "/"}));
  EXPECT_EQ(local("local: {}\n"), (Local{.enabled = true, .cgroup = "/"}));
  EXPECT_EQ(local("local: {cgroup: /}\n"), (Local{.enabled = true, .cgroup = "/"}));
  EXPECT_EQ(local("local: {cgroup: /a.slice/b@1.service}\n"),
            (Local{.enabled = true, .cgroup = "/a.slice/b@1.service"}));
}

TEST(ParseConfig, ProxyingByDefaultConcernsTcpAndUdp) {
  Config c = Parsed(StrCat(kHead, "default: proxy\non_proxy_down: closed\nsource: preserve\n",
                           "mapping: address-and-port-dependent\n"));
  EXPECT_THAT(c.policy.rules, ElementsAre(Rule{.name = "default",
                                               .protocols = {6, 17},
                                               .action = TPX_ACTION_PROXY,
                                               .fail_mode = TPX_FAIL_CLOSED,
                                               .source = TPX_SOURCE_PRESERVE,
                                               .mapping = TPX_MAPPING_ADDRESS_AND_PORT_DEPENDENT,
                                               .forward = TPX_FORWARD_AUTO},
                                          Rule{.name = "default-other", .action = TPX_ACTION_BYPASS}));
}

TEST(ParseConfig, PortsAndProxyImplyTheirProtocols) {
  EXPECT_THAT(FirstRule("{name: a, match: {dport: 53}, action: drop}").protocols, ElementsAre(6, 17));
  EXPECT_THAT(FirstRule("{name: a, match: {dport: 53}, action: proxy}").protocols, ElementsAre(6, 17));
  EXPECT_THAT(FirstRule("{name: a, action: proxy}").protocols, ElementsAre(6, 17));
  EXPECT_THAT(FirstRule("{name: a, action: {redirect: '192.0.2.1:53'}}").protocols, ElementsAre(6, 17));
  EXPECT_THAT(FirstRule("{name: a, match: {proto: [udp, tcp]}, action: proxy}").protocols,
              ElementsAre(6, 17));
  EXPECT_THAT(FirstRule("{name: a, match: {proto: udp}, action: proxy}").protocols, ElementsAre(17));
  EXPECT_THAT(FirstRule("{name: a, action: drop}").protocols, ElementsAre());
  EXPECT_THAT(FirstRule("{name: a, match: {proto: 6}, action: proxy}").protocols, ElementsAre(6));
}

TEST(ParseConfig, ALimitSaysWhatItDoesNotSay) {
  auto limit = [](std::string_view text) {
    return FirstRule(StrCat("{name: a, action: bypass, limit: ", text, "}")).limit;
  };
  EXPECT_EQ(limit("{rate: 7}"), (RateLimit{.per_second = 7, .burst = 7, .penalty_s = 0}));
  EXPECT_EQ(limit("{burst: 1, rate: 1000000}"),
            (RateLimit{.per_second = 1'000'000, .burst = 1, .penalty_s = 0}));
  EXPECT_EQ(limit("{rate: 1, burst: 1000000, penalty: 1h}"),
            (RateLimit{.per_second = 1, .burst = 1'000'000, .penalty_s = 3'600}));
  EXPECT_EQ(FirstRule("{name: a, action: proxy}").limit, RateLimit());
}

TEST(ParseConfig, WhatIsBypassedTheStackForwardsUnlessTheRuleSaysOtherwise) {
  EXPECT_EQ(FirstRule("{name: a, action: bypass}").forward, TPX_FORWARD_STACK);
  EXPECT_EQ(FirstRule("{name: a, action: bypass, forward: stack}").forward, TPX_FORWARD_STACK);
  EXPECT_EQ(FirstRule("{name: a, action: bypass, forward: fib}").forward, TPX_FORWARD_FIB);
}

TEST(ParseConfig, WhatIsProxiedOfUdpGoesPastTheStackUnlessTheRuleSaysOtherwise) {
  for (const std::string action : {"proxy", "{redirect: \"192.0.2.1:53\"}"}) {
    auto forward = [&](std::string_view more) {
      return FirstRule(StrCat("{name: a, action: ", action, more, "}")).forward;
    };
    EXPECT_EQ(forward(""), TPX_FORWARD_AUTO);
    EXPECT_EQ(forward(", forward: auto"), TPX_FORWARD_AUTO);
    EXPECT_EQ(forward(", forward: stack"), TPX_FORWARD_STACK);
    EXPECT_EQ(forward(", forward: fib"), TPX_FORWARD_FIB);
    EXPECT_EQ(forward(", match: {proto: udp}"), TPX_FORWARD_AUTO);
    EXPECT_EQ(forward(", match: {proto: tcp}"), TPX_FORWARD_STACK);
    EXPECT_EQ(forward(", match: {uid: 33}"), TPX_FORWARD_STACK) << "nothing of theirs comes in";
  }
}

TEST(ParseConfig, IcmpIsThatOfBothFamilies) {
  EXPECT_THAT(FirstRule("{name: a, match: {proto: icmp}, action: drop}").protocols, ElementsAre(1, 58));
  EXPECT_THAT(FirstRule("{name: a, match: {proto: [icmp, udp]}, action: reject}").protocols,
              ElementsAre(1, 17, 58));
  EXPECT_THAT(FirstRule("{name: a, match: {proto: 1}, action: drop}").protocols, ElementsAre(1));
  ParseResult twice =
      ParseText(StrCat(kHead, "rules: [{name: a, match: {proto: [icmp, 58]}, action: drop}]\n"));
  EXPECT_EQ(AllText(twice.errors), "test.yaml:3:41: proto: '58' is listed twice\n");
}

TEST(ParseConfig, RulesTakeTheMappingOfTheFileOrTheirOwn) {
  const std::string head = StrCat(kHead, "mapping: address-and-port-dependent\n");
  auto mapping = [&](std::string_view rule, std::string_view before) {
    return FirstRule(rule, before).mapping;
  };
  constexpr auto kCone = TPX_MAPPING_ENDPOINT_INDEPENDENT, kPair = TPX_MAPPING_ADDRESS_AND_PORT_DEPENDENT;
  EXPECT_EQ(mapping("{name: a, action: proxy}", kHead), kCone);
  EXPECT_EQ(mapping("{name: a, action: proxy}", head), kPair);
  EXPECT_EQ(mapping("{name: a, action: proxy, mapping: endpoint-independent}", head), kCone);
  EXPECT_EQ(mapping("{name: a, match: {proto: udp}, action: proxy}", head), kPair);
  // where it says nothing
  EXPECT_EQ(mapping("{name: a, match: {proto: tcp}, action: proxy}", head), kCone);
  EXPECT_EQ(mapping("{name: a, action: drop}", head), kCone);
}

TEST(ParseConfig, RedirectsMasqueradeWhateverTheFileSays) {
  for (std::string_view own : {"", ", source: masquerade", ", mapping: address-and-port-dependent"}) {
    Rule rule = FirstRule(StrCat("{name: a, action: {redirect: '[2001:db8::1]:53'}", own, "}"),
                          StrCat(kHead, "source: preserve\non_proxy_down: closed\n"));
    EXPECT_EQ(rule.action, TPX_ACTION_REDIRECT);
    EXPECT_EQ(rule.target.ToString(), "[2001:db8::1]:53");
    EXPECT_EQ(rule.source, TPX_SOURCE_MASQUERADE);
    EXPECT_EQ(rule.fail_mode, TPX_FAIL_CLOSED);
    EXPECT_EQ(rule.mapping, TPX_MAPPING_ADDRESS_AND_PORT_DEPENDENT);
  }
}

TEST(ParseConfig, FindsSetsWhereverTheyAreInTheFile) {
  Config c = Parsed(StrCat(kHead, "rules: [{name: a, match: {src: [x, 192.0.2.0/24]}, action: drop}]\n",
                           "sets: {x: [10.0.0.0/8, 10.0.0.0/8]}\n"));
  EXPECT_EQ(c.policy.rules[0].src, Nets({"10.0.0.0/8", "192.0.2.0/24"}));
}

TEST(ParseConfig, RuleThatNamesOnlyEmptySetsMatchesNothing) {
  ParseResult result = ParseText(StrCat(kHead, "sets: {none: [], one: [192.0.2.1]}\n",
                                        "rules:\n  - {name: a, match: {src: none}, action: drop}\n",
                                        "  - {name: b, match: {src: [none, one]}, action: drop}\n"));
  ASSERT_TRUE(result.ok()) << AllText(result.errors);
  EXPECT_TRUE(result.config.policy.rules[0].matches_nothing);
  EXPECT_FALSE(result.config.policy.rules[1].matches_nothing);
  EXPECT_EQ(AllText(result.warnings), "test.yaml:3:8: set 'none' is empty: it matches nothing\n");
}

TEST(ParseConfig, WarnsOfShadowedRules) {
  ParseResult result =
      ParseText(StrCat(kHead, "rules:\n  - {name: a, match: {dst: 10.0.0.0/8}, action: drop}\n",
                       "  - {name: b, match: {dst: 10.1.0.0/16, proto: tcp}, action: bypass}\n"));
  EXPECT_EQ(AllText(result.warnings),
            "test.yaml:5:5: rule 'b' never matches: rule 'a' in line 4 comes first and accepts all that it "
            "accepts\n");
}

TEST(ParseConfig, DoesNotWarnThatTheImplicitDefaultIsShadowed) {
  ParseResult result = ParseText(StrCat(kHead, "default: proxy\nrules: [{name: a, action: bypass}]\n"));
  EXPECT_TRUE(result.ok());
  EXPECT_EQ(AllText(result.warnings), "");
}

TEST(ParseConfig, ReportsSeveralErrorsButNotEndlessly) {
  ParseResult two = ParseText("version: 2\ninterfaces: {lan: 5}\n");
  EXPECT_EQ(two.errors.size(), 2u) << AllText(two.errors);
  std::string many(kHead);
  many += "rules:\n";
  for (int i = 0; i < 500; ++i) many += "  - {name: a, actoin: drop}\n";
  EXPECT_EQ(ParseText(many).errors.size(), kMaxErrors);
}

TEST(ParseConfig, TakesNoMoreRulesThanTheTablesHold) {
  std::string text(kHead);
  text += "default: proxy\nrules:\n";
  for (size_t i = 0; i < kMaxFileRules; ++i)
    text += StrCat("  - {name: r", i, ", match: {dport: ", i, "}, action: drop}\n");
  ParseResult result = ParseText(text);
  EXPECT_TRUE(result.ok()) << AllText(result.errors);
  EXPECT_EQ(result.config.policy.rules.size(), size_t{TPX_MAX_RULES});
  result = ParseText(text + "  - {name: last, action: drop}\n");
  EXPECT_EQ(AllText(result.errors), "test.yaml:1027:5: rules: more than 1022 rules\n");
}

TEST(ParseConfig, TakesNoMoreNamesOfInterfaces) {
  std::string names = "a0";
  for (int i = 1; i < 256; ++i) names += StrCat(", a", i);
  EXPECT_EQ(Parsed(StrCat("version: 1\ninterfaces: {lan: [", names, "]}\n")).interfaces.lan.size(), 256u);
  EXPECT_THAT(AllText(ParseText(StrCat("version: 1\ninterfaces: {lan: [", names, ", b]}\n")).errors),
              HasSubstr(": lan: more than 256 names, use a pattern\n"));
}

TEST(ParseConfig, TakesNoPathThatTheKernelWouldNot) {
  std::string path;
  while (path.size() < 4095) path += "/abcdefghi/lmn";
  path.resize(4096, 'x');
  const std::string text = StrCat(kHead, "local: {cgroup: ", path, "}\n");
  EXPECT_EQ(AllText(ParseText(text).errors),
            StrCat("test.yaml:3:17: cgroup: '", path.substr(0, 64), "...' is longer than 4095 bytes\n"));
  EXPECT_THAT(AllText(ParseText(StrCat(kHead, "local: true\nrules: [{name: a, match: {exe: ", path,
                                       "}, action: drop}]\n"))
                          .errors),
              HasSubstr("is longer than 4095 bytes\n"));
}

// Sets of four times what the tables hold in one of two addresses.
TEST(ParseConfig, TakesNoMorePrefixesThanItHasMemoryFor) {
  if (test::Scaled(10) < 10) GTEST_SKIP() << "left to the whole run: it takes long under the sanitizers";
  std::string list;
  for (uint32_t i = 0; i < TPX_MAX_PREFIXES; ++i)  // neighbours would be one prefix
    list += StrCat(10 + (i >> 23), ".", i >> 15 & 255, ".", i >> 7 & 255, ".", i << 1 & 255, "\n");
  auto errors = [&list](const std::string& rest) {
    return AllText(
        ParseConfig(StrCat(kHead, "sets: {a: {file: a}", rest), "test.yaml", [&list](const std::string&) {
          return list;
        }).errors);
  };
  EXPECT_EQ(errors("}\n"), "");
  EXPECT_EQ(errors(", b: {file: a}, c: {file: a}, d: {file: a}, e: {file: a}}\n"),
            "test.yaml:3:64: the sets up to this one have more than 8388608 prefixes\n");
  EXPECT_EQ(errors("}\nrules: [{name: a, match: {src: [a, a, a, a, a]}, action: drop}]\n"),
            "test.yaml:4:45: src: more than 8388608 prefixes\n");
  std::string rules = "}\nrules:\n";
  for (char name = 'a'; name < 'f'; ++name)
    rules += StrCat("  - {name: ", std::string(1, name), ", match: {dst: a}, action: drop}\n");
  EXPECT_EQ(
      errors(rules),
      "test.yaml:9:5: the rules up to this one have more than 8388608 prefixes, each set counted once for "
      "each rule that names it\n");
  list += "192.0.2.1\n";
  EXPECT_EQ(errors("}\n"), "a:2097153:1: more than 2097152 prefixes\n");
}

TEST(ParseConfig, RefusesFilesThatAreTooLarge) {
  ParseResult result = ParseText(std::string(kMaxConfigBytes + 1, ' '));
  EXPECT_EQ(AllText(result.errors), "test.yaml:1:1: the file is larger than 4 MiB\n");
}

TEST(ParseConfig, ReportsTableLimitsAtTheRules) {
  // Ranges that overlap in ever new ways.
  std::string text(kHead);
  std::mt19937 random(1);
  text += "rules:\n";
  for (int i = 0; i < 1000; ++i) {
    text += StrCat("  - {name: r", i, ", match: {dport: [");
    for (uint32_t j = 0; j < 10; ++j) {
      uint32_t first = j * 6500 + random() % 3000;
      text += StrCat(j == 0 ? "" : ", ", first, "-", first + random() % 3000);
    }
    text += "]}, action: drop}\n";
  }
  ParseResult result = ParseText(text);
  EXPECT_THAT(AllText(result.errors),
              testing::AllOf(HasSubstr("test.yaml:4:3: "), HasSubstr("TPX_MAX_CLASSES (8192)")));
}

TEST(ParseConfig, SetFilesHaveTheirOwnPlaces) {
  std::string content = "# head\r\n10.0.0.0/8\r\n\r\n  192.0.2.0/24\t# tail\n\f\nx y\n::1/129";
  ParseResult result = ParseConfig(StrCat(kHead, "sets: {a: {file: lists/a.txt}}\n"), "c.yaml",
                                   [&](const std::string& path) -> absl::StatusOr<std::string> {
                                     EXPECT_EQ(path, "lists/a.txt");
                                     return content;
                                   });
  EXPECT_EQ(AllText(result.errors),
            "lists/a.txt:6:1: 'x' is not an address or prefix\n"
            "lists/a.txt:7:1: prefix length of '::1/129' is not a number from 0 to 128\n");
}

TEST(ParseConfig, ShowsNoControlBytesOfTheFile) {
  ParseResult result = ParseText(StrCat(kHead, "\"a\\e[31mb\": 1\n"));
  EXPECT_THAT(AllText(result.errors), HasSubstr(R"(unknown key 'a\033[31mb')"));
}

}  // namespace
}  // namespace tpx::policy
