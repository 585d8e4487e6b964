// SPDX-License-Identifier: Apache-2.0
// Protocols without ports, and what rules may say about them and about UDP.
#include "support/packet_fixture.h"

namespace tpx::test {
namespace {

constexpr uint8_t kIpIp = 4, kDccp = 33, kGre = 47, kSctp = 132, kUdpLite = 136;

class Protocol : public FamilyTest {
 protected:
  Packet UdpTo(uint16_t port) const { return FromClient().Udp(kClientPort, port); }
  // A new flow each time.
  Packet NewUdpTo(uint16_t port) { return FromClient().Udp(next_port_++, port); }

 private:
  uint16_t next_port_ = 10'000;
};
TPX_BOTH_FAMILIES(Protocol);

TEST_P(Protocol, P17_NothingButTcpAndUdpIsLookedAtWhereNoRuleSpeaksOfIt) {
  EXPECT_EQ(Lan(UdpTo(kDropped)), Leaves(TPX_R_RULE_BYPASS));
  EXPECT_EQ(Lan(FromClient().Icmp(8, 128)), Leaves(TPX_R_OTHER_PROTOCOL));
  for (uint8_t protocol : {kIpIp, kDccp, kGre, kSctp, kUdpLite}) {
    EXPECT_EQ(Lan(FromClient().Protocol(protocol).Payload(40)), Leaves(TPX_R_OTHER_PROTOCOL))
        << unsigned{protocol};
    EXPECT_EQ(Wan(FromClient().Protocol(protocol).Payload(40)), Leaves(TPX_R_OTHER_PROTOCOL))
        << unsigned{protocol};
  }
}

TEST_P(Protocol, P17_RulesDecideOverOtherProtocols) {
  for (uint8_t protocol : {kIpIp, kDccp, kGre, kSctp, kUdpLite}) {
    runner().Publish(PolicyOf({RuleFor({}, TPX_ACTION_DROP, TPX_FAIL_OPEN, {protocol})}));
    EXPECT_EQ(Lan(FromClient().Protocol(protocol).Payload(40)), Leaves(TPX_R_RULE_DROP))
        << unsigned{protocol};
    EXPECT_EQ(Lan(NewUdpTo(53)), Leaves(TPX_R_RULE_BYPASS));
    EXPECT_EQ(Wan(FromClient().Protocol(protocol).Payload(40)), Leaves(TPX_R_OTHER_PROTOCOL))
        << "rules are for the LAN side";
  }
}

TEST_P(Protocol, WhatIsProxiedIsTcpAndUdpOnly) {
  policy::Rule dropped = RuleFor({}, TPX_ACTION_DROP, TPX_FAIL_OPEN, {kGre});
  runner().Publish(PolicyOf({RuleFor({}, TPX_ACTION_PROXY, TPX_FAIL_OPEN, {}), dropped}));
  EXPECT_EQ(Lan(SynTo(80)), Leaves(TPX_R_RULE_PROXY));
  EXPECT_EQ(Lan(NewUdpTo(80)), Leaves(TPX_R_RULE_PROXY));
  EXPECT_EQ(Lan(FromClient().Protocol(kGre).Payload(40)), Leaves(TPX_R_RULE_DROP));
  EXPECT_EQ(Lan(FromClient().Protocol(kUdpLite).Payload(40)), Leaves(TPX_R_RULE_BYPASS));
  EXPECT_EQ(Lan(FromClient().Icmp(8, 128)), Leaves(TPX_R_RULE_BYPASS));
}

TEST_P(Protocol, UdpRulesMatchPorts) {
  runner().Publish(PolicyOf({RuleFor({444}, TPX_ACTION_DROP, TPX_FAIL_OPEN, {17})}));
  EXPECT_EQ(Lan(UdpTo(444)), Leaves(TPX_R_RULE_DROP));
  EXPECT_EQ(Lan(UdpTo(445)), Leaves(TPX_R_RULE_BYPASS));
  EXPECT_EQ(Lan(UdpTo(444).TransportBytes(3)), Leaves(TPX_R_MALFORMED));
}

TEST_P(Protocol, EachPacketCountsForItsRule) {
  uint32_t generation = runner().generation();
  uint64_t dropped = runner().RuleHits(generation, 4), other = runner().RuleHits(generation, 0);
  Lan(SynTo(kDropped));
  Lan(SynTo(kDropped));
  EXPECT_EQ(runner().RuleHits(generation, 4), dropped + 2);
  EXPECT_EQ(runner().RuleHits(generation, 0), other);
}

TEST_P(Protocol, WithoutAPolicyEverythingPasses) {
  runner().Flip(0);
  EXPECT_EQ(Lan(SynTo(kDropped)), Leaves(TPX_R_NO_POLICY));
  EXPECT_EQ(Lan(FromClient().Tcp(1, 2).Ack()), Leaves(TPX_R_DIRECT));
  EXPECT_EQ(Lan(UdpTo(kDropped)), Leaves(TPX_R_NO_POLICY));
  EXPECT_EQ(Lan(UdpTo(kDropped)), Leaves(TPX_R_NO_POLICY)) << "not remembered";
  EXPECT_EQ(Lan(FromClient().Fragment(64, false).Protocol(6).Payload(64)), Leaves(TPX_R_FRAG_PASSED));
}

}  // namespace
}  // namespace tpx::test
