// SPDX-License-Identifier: Apache-2.0
#include "cli/flow_arguments.h"

#include <gmock/gmock.h>
#include <netinet/in.h>

namespace tpx::cli {
namespace {

using ::testing::HasSubstr;

FlowOptions Typed(std::string proto, std::string src, std::string dst) {
  return {.proto = std::move(proto),
          .src = std::move(src),
          .dst = std::move(dst),
          .device = {},
          .mark = {},
          .mac = {},
          .dscp = {},
          .uid = {},
          .gid = {},
          .cgroup = {},
          .exe = {}};
}

TEST(FlowArguments, OfBothFamilies) {
  const auto v4 = ParseFlow(Typed("tcp", "192.0.2.2:40000", "203.0.113.5:443"));
  ASSERT_TRUE(v4.ok()) << v4.status();
  EXPECT_EQ(v4->proto, IPPROTO_TCP);
  EXPECT_EQ(v4->src.ToString(), "192.0.2.2:40000");
  EXPECT_EQ(v4->dst.ToString(), "203.0.113.5:443");
  const auto v6 = ParseFlow(Typed("udp", "[2001:db8::1]:1", "[2001:db8::2]:65535"));
  ASSERT_TRUE(v6.ok()) << v6.status();
  EXPECT_EQ(v6->src.ToString(), "[2001:db8::1]:1");
  EXPECT_EQ(v6->dst.ToString(), "[2001:db8::2]:65535");
}

TEST(FlowArguments, SourcePortsMayBeLeftOut) {
  for (const char* src : {"2001:db8::1", "[2001:db8::1]"}) {
    const auto flow = ParseFlow(Typed("udp", src, "[2001:db8::2]:53"));
    ASSERT_TRUE(flow.ok()) << flow.status();
    EXPECT_EQ(flow->src.ToString(), "[2001:db8::1]:50000");
  }
}

TEST(FlowArguments, IcmpHasNoPorts) {
  const auto flow = ParseFlow(Typed("icmp", "2001:db8::1", "[2001:db8::2]"));
  ASSERT_TRUE(flow.ok()) << flow.status();
  EXPECT_EQ(flow->src.port, 0);
  EXPECT_EQ(flow->dst.addr.ToString(), "2001:db8::2");
  EXPECT_FALSE(ParseFlow(Typed("icmp", "192.0.2.2", "192.0.2.3:1")).ok());
}

TEST(FlowArguments, OtherProtocolsGoByTheirNumber) {
  for (const auto& [text, proto] :
       {std::pair{"0", 0}, {"255", 255}, {"51", 51}, {"58", IPPROTO_ICMP}, {"1", IPPROTO_ICMP}}) {
    const auto flow = ParseFlow(Typed(text, "192.0.2.2", "192.0.2.3"));
    ASSERT_TRUE(flow.ok()) << flow.status();
    EXPECT_EQ(flow->proto, proto);
    EXPECT_EQ(flow->src.port, 0);
  }
  EXPECT_EQ(ParseFlow(Typed("17", "192.0.2.2", "192.0.2.3:53"))->dst.port, 53);
  for (const char* bad : {"256", "-1", "0x2f", "4294967343", "", "gre"}) {
    EXPECT_THAT(ParseFlow(Typed(bad, "192.0.2.2", "192.0.2.3")).status().message(),
                HasSubstr("a number from 0 to 255"))
        << bad;
  }
  for (const char* extension : {"0", "43", "44", "51", "60"}) {
    EXPECT_THAT(ParseFlow(Typed(extension, "2001:db8::1", "2001:db8::2")).status().message(),
                HasSubstr("extension header"))
        << extension;
  }
}

TEST(FlowArguments, MarkAndLinkAddress) {
  FlowOptions options = Typed("icmp", "192.0.2.2", "192.0.2.3");
  options.mac = "00:00:5e:00:53:Ff";
  for (const auto& [text, mark] : {std::pair{"16", 16U}, {"0x10", 16U}, {"0XffffFFFF", 0xffffffffU}}) {
    options.mark = text;
    const auto flow = ParseFlow(options);
    ASSERT_TRUE(flow.ok()) << flow.status();
    EXPECT_EQ(flow->mark, mark);
    EXPECT_EQ(flow->mac, (policy::MacAddress{0, 0, 0x5e, 0, 0x53, 0xff}));
  }
  for (const char* bad : {"-1", "4294967296", "0x", "0x100000000", "x", "1 2"}) {
    options.mark = bad;
    EXPECT_THAT(ParseFlow(options).status().message(), HasSubstr("--mark")) << bad;
  }
  options.mark.clear();
  for (const char* bad :
       {"00:00:5e:00:53", "00:00:5e:00:53:01:02", "0:0:5e:0:53:1", "00:00:5e:00:53:0g", ":::::"}) {
    options.mac = bad;
    EXPECT_THAT(ParseFlow(options).status().message(), HasSubstr("expected 00:00:5e:00:53:01")) << bad;
  }
}

TEST(FlowArguments, Dscp) {
  FlowOptions options = Typed("udp", "192.0.2.2", "192.0.2.3:53");
  EXPECT_EQ(ParseFlow(options)->dscp, 0);
  options.dscp = "46";
  EXPECT_EQ(ParseFlow(options)->dscp, 46);
  for (const char* bad : {"-1", "64", "ef", "0x2e", "4 6"}) {
    options.dscp = bad;
    EXPECT_THAT(ParseFlow(options).status().message(), HasSubstr("--dscp")) << bad;
  }
  options.dscp = "0";
  options.uid = "0";
  EXPECT_THAT(ParseFlow(options).status().message(), HasSubstr("a process of the gateway"));
}

TEST(FlowArguments, NonsenseIsRefused) {
  for (const char* bad : {"",
                          ":",
                          "[",
                          "]",
                          "[]",
                          "[]:1",
                          "1",
                          "192.0.2.2:1:2",
                          "192.0.2.2:+1",
                          "192.0.2.2:1 ",
                          "192.0.2.2: 1",
                          "192.0.2.2:",
                          "192.0.2.2:0",
                          "192.0.2.2:65536",
                          "192.0.2.2:4294967297",
                          "[2001:db8::1]:",
                          "[2001:db8::1]:x",
                          "[2001:db8::1]1",
                          "]2001:db8::1[:1",
                          "[192.0.2.2]:1",
                          "::ffff:192.0.2.1",
                          "fe80::1%lan0"}) {
    EXPECT_FALSE(ParseFlow(Typed("tcp", bad, "192.0.2.9:1")).ok()) << bad;
    EXPECT_FALSE(ParseFlow(Typed("tcp", bad, "[2001:db8::9]:1")).ok()) << bad;
    EXPECT_FALSE(ParseFlow(Typed("tcp", "192.0.2.9:1", bad)).ok()) << bad;
  }
  EXPECT_FALSE(ParseFlow(Typed("TCP", "192.0.2.9:1", "192.0.2.9:1")).ok());
}

}  // namespace
}  // namespace tpx::cli
