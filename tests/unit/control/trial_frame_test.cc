// SPDX-License-Identifier: Apache-2.0
#include "control/trial_frame.h"

#include <gtest/gtest.h>
#include <netinet/in.h>

#include <algorithm>

#include "support/packet.h"

namespace tpx::control {
namespace {

struct Family {
  const char *src, *dst;
  size_t header;
};
constexpr Family kFamilies[] = {{"192.0.2.2", "203.0.113.5", 20}, {"2001:db8::2", "2001:db8:5::5", 40}};
constexpr size_t kEthernet = 14;

TrialFlow FlowOf(const Family& family, uint8_t proto) {
  TrialFlow flow;
  flow.proto = proto;
  flow.src.addr = *IpAddr::Parse(family.src);
  flow.dst.addr = *IpAddr::Parse(family.dst);
  if (proto != IPPROTO_ICMP) flow.src.port = 40000, flow.dst.port = 443;
  flow.mac = {0, 0, 0x5e, 0, 0x53, 1};
  return flow;
}

test::Bytes Built(const TrialFlow& flow) {
  const std::vector<std::byte> frame = BuildTrialFrame(flow);
  test::Bytes bytes(frame.size());
  std::transform(frame.begin(), frame.end(), bytes.begin(), std::to_integer<uint8_t>);
  return bytes;
}

// The tests' own builder of packets makes the same ones.
TEST(TrialFrame, IsTheFirstPacketOfItsFlow) {
  for (const Family& family : kFamilies) {
    for (const uint8_t proto : {IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMP}) {
      test::Packet packet;
      packet.Ip(family.src, family.dst);
      if (proto == IPPROTO_TCP) packet.Tcp(40000, 443).Flags(2);
      if (proto == IPPROTO_UDP) packet.Udp(40000, 443);
      if (proto == IPPROTO_ICMP) packet.Icmp(8, 128);
      const test::Bytes expected = packet.Build(), built = Built(FlowOf(family, proto));
      ASSERT_EQ(built.size(), expected.size());
      const auto behind = static_cast<ptrdiff_t>(kEthernet + family.header);
      EXPECT_TRUE(std::equal(built.begin() + behind, built.end(), expected.begin() + behind, expected.end()))
          << family.src << " " << int{proto};
      EXPECT_TRUE(std::equal(built.begin() + 12, built.begin() + 14, expected.begin() + 12)) << "ethertype";
      EXPECT_TRUE(test::ChecksumsHold(built)) << family.src << " " << int{proto};
    }
  }
}

TEST(TrialFrame, OfAnotherProtocolIsAFewBytes) {
  for (const Family& family : kFamilies) {
    TrialFlow flow = FlowOf(family, 132);
    flow.src.port = flow.dst.port = 0;
    const test::Bytes built = Built(flow);
    EXPECT_EQ(built.size(), kEthernet + family.header + 8);
    EXPECT_EQ(built[kEthernet + (family.header == 20 ? 9 : 6)], 132);
    EXPECT_EQ(KeyOf(flow).proto, 132);
  }
}

TEST(TrialFrame, HasTheDscpThatWasAskedFor) {
  for (const Family& family : kFamilies) {
    TrialFlow flow = FlowOf(family, IPPROTO_UDP);
    flow.dscp = 46;
    const test::Bytes built = Built(flow);
    const bool v4 = family.header == 20;
    EXPECT_EQ(built[kEthernet], v4 ? 0x45 : 0x6b);
    EXPECT_EQ(built[kEthernet + 1], v4 ? 46 << 2 : 0x80);
    EXPECT_TRUE(test::ChecksumsHold(built)) << family.src;
  }
}

TEST(TrialFrame, HasTheLinkAddressThatWasAskedFor) {
  const test::Bytes built = Built(FlowOf(kFamilies[0], IPPROTO_UDP));
  EXPECT_EQ(test::Bytes(built.begin() + 6, built.begin() + 12), (test::Bytes{0, 0, 0x5e, 0, 0x53, 1}));
}

TEST(TrialFrame, KeyIsTheFlowOfThePrograms) {
  const tpx_flow key = KeyOf(FlowOf(kFamilies[1], IPPROTO_ICMP));
  EXPECT_EQ(key.proto, IPPROTO_ICMPV6);
  EXPECT_EQ(key.sport, 0);
  EXPECT_EQ(KeyOf(FlowOf(kFamilies[0], IPPROTO_TCP)).dport, htons(443));
}

}  // namespace
}  // namespace tpx::control
