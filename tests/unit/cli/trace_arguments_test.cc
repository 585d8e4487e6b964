// SPDX-License-Identifier: Apache-2.0
#include "cli/trace_arguments.h"

#include <gmock/gmock.h>
#include <netinet/in.h>

namespace tpx::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TraceOptions Typed(std::string proto, std::string src = "", std::string dst = "") {
  TraceOptions options;
  options.proto = std::move(proto);
  options.src = std::move(src);
  options.dst = std::move(dst);
  return options;
}

std::string ErrorOf(const TraceOptions& options) {
  const auto request = ParseTrace(options);
  return request.ok() ? "no error" : std::string(request.status().message());
}

TEST(TraceArguments, NothingIsEverything) {
  for (const TraceOptions& options : {Typed(""), Typed("any", "any", "any")}) {
    const auto request = ParseTrace(options);
    ASSERT_TRUE(request.ok()) << request.status();
    EXPECT_TRUE(request->filter.protocols.empty());
    EXPECT_FALSE(request->filter.src || request->filter.dst);
    EXPECT_EQ(request->filter.sport | request->filter.dport, 0);
    EXPECT_EQ(request->filter.every, 1u);
    EXPECT_EQ(request->limits.events, 0u);
    EXPECT_EQ(request->limits.duration.count(), 0);
  }
}

TEST(TraceArguments, Protocols) {
  EXPECT_THAT(ParseTrace(Typed("tcp"))->filter.protocols, ElementsAre(IPPROTO_TCP));
  EXPECT_THAT(ParseTrace(Typed("udp"))->filter.protocols, ElementsAre(IPPROTO_UDP));
  EXPECT_THAT(ParseTrace(Typed("icmp"))->filter.protocols, ElementsAre(IPPROTO_ICMP, IPPROTO_ICMPV6));
  EXPECT_THAT(ErrorOf(Typed("sctp")), HasSubstr("'sctp': expected tcp, udp, icmp or any"));
}

TEST(TraceArguments, EndsOfBothFamilies) {
  const auto v4 = ParseTrace(Typed("tcp", "192.0.2.0/24:40000", "203.0.113.5"));
  ASSERT_TRUE(v4.ok()) << v4.status();
  EXPECT_EQ(v4->filter.src->ToString(), "192.0.2.0/24");
  EXPECT_EQ(v4->filter.sport, 40000);
  EXPECT_EQ(v4->filter.dst, Prefix::Parse("203.0.113.5").value());
  EXPECT_EQ(v4->filter.dport, 0);
  const auto v6 = ParseTrace(Typed("any", "2001:db8::/32", "[2001:db8:1::1]:443"));
  ASSERT_TRUE(v6.ok()) << v6.status();
  EXPECT_EQ(v6->filter.src->ToString(), "2001:db8::/32");
  EXPECT_EQ(v6->filter.dst, Prefix::Parse("2001:db8:1::1").value());
  EXPECT_EQ(v6->filter.dport, 443);
  const auto port = ParseTrace(Typed("udp", "any", "any:53"));
  ASSERT_TRUE(port.ok()) << port.status();
  EXPECT_FALSE(port->filter.dst);
  EXPECT_EQ(port->filter.dport, 53);
}

TEST(TraceArguments, FaultyEndsAreExplained) {
  EXPECT_THAT(ErrorOf(Typed("tcp", "192.0.2.1/24")), HasSubstr("'192.0.2.1/24'"));
  EXPECT_THAT(ErrorOf(Typed("tcp", "192.0.2.0/24:0")), HasSubstr("expected a number from 1 to 65535"));
  EXPECT_THAT(ErrorOf(Typed("tcp", "any:")), HasSubstr("expected a number from 1 to 65535"));
  EXPECT_THAT(ErrorOf(Typed("tcp", "[2001:db8::1]x")), HasSubstr("expected [2001:db8::/32]:443"));
  EXPECT_THAT(ErrorOf(Typed("tcp", "example")), HasSubstr("'example'"));
  EXPECT_THAT(ErrorOf(Typed("tcp", "::/0")), HasSubstr("2000::/3"));
  EXPECT_THAT(ErrorOf(Typed("tcp", "192.0.2.1", "2001:db8::1")), HasSubstr("two of IPv4 or two of IPv6"));
}

TEST(TraceArguments, NumbersAndTimes) {
  TraceOptions options;
  options.sample = "100";
  options.count = "5";
  options.duration = "1m30s";
  const auto request = ParseTrace(options);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->filter.every, 100u);
  EXPECT_EQ(request->limits.events, 5u);
  EXPECT_EQ(request->limits.duration, std::chrono::seconds(90));
  for (const char* wrong : {"0", "-1", "x", "4294967296"}) {
    TraceOptions faulty;
    faulty.sample = wrong;
    EXPECT_THAT(ErrorOf(faulty), HasSubstr("--sample '")) << wrong;
  }
  for (const char* wrong : {"10", "0s", "-5s", "inf", "soon"}) {
    TraceOptions faulty;
    faulty.duration = wrong;
    EXPECT_THAT(ErrorOf(faulty), HasSubstr("--for '")) << wrong;
  }
}

TEST(TraceArguments, ReasonsAndEffects) {
  TraceOptions options;
  options.reasons = {"drop", "rule_proxy"};
  const auto request = ParseTrace(options);
  ASSERT_TRUE(request.ok()) << request.status();
  const auto wanted = app::ReasonsOf(request->filter);
  ASSERT_TRUE(wanted.ok());
  EXPECT_TRUE((*wanted)[TPX_R_RULE_DROP] && (*wanted)[TPX_R_MARTIAN] && (*wanted)[TPX_R_RULE_PROXY]);
  EXPECT_FALSE((*wanted)[TPX_R_RULE_BYPASS] || (*wanted)[TPX_R_ESTABLISHED]);
  options.reasons = {"rule_prox"};
  EXPECT_THAT(ErrorOf(options), HasSubstr("'rule_prox', did you mean 'rule_proxy'?"));
  options.reasons = {"drop"};
  options.all = true;
  EXPECT_THAT(ErrorOf(options), HasSubstr("exclude each other"));
}

TEST(TraceArguments, WithoutAReasonDecisionsAreShown) {
  const auto decisions = app::ReasonsOf({});
  app::TraceFilter everything;
  everything.all = true;
  const auto all = app::ReasonsOf(everything);
  ASSERT_TRUE(decisions.ok() && all.ok());
  for (tpx_reason reason :
       {TPX_R_RULE_PROXY, TPX_R_RULE_BYPASS, TPX_R_RULE_DROP, TPX_R_RULE_REJECT, TPX_R_DOWN_OPEN,
        TPX_R_BUSY_OPEN, TPX_R_RATE_LIMITED, TPX_R_MARTIAN, TPX_R_LK_NO_WORKER})
    EXPECT_TRUE((*decisions)[reason]) << reason;
  for (tpx_reason reason : {TPX_R_ESTABLISHED, TPX_R_DIRECT, TPX_R_WAN, TPX_R_OWN_ADDRESS, TPX_R_LK_STEERED})
    EXPECT_FALSE((*decisions)[reason]) << reason;
  EXPECT_THAT(*all, ::testing::Each(true));
}

}  // namespace
}  // namespace tpx::cli
