// SPDX-License-Identifier: Apache-2.0
// What a rule with forward: fib does to the packets behind the first one of a flow.
#include <linux/pkt_cls.h>

#include "support/fib_fixture.h"

namespace tpx::test {
namespace {

constexpr uint16_t kForwarded = 9000;

class Forward : public FibTest {
 protected:
  void SetUp() override {
    FibTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    policy::Rule rule = RuleFor({kForwarded}, TPX_ACTION_BYPASS, TPX_FAIL_OPEN, {6, 17});
    rule.forward = TPX_FORWARD_FIB;
    runner().Publish(PolicyOf({rule}));
    runner().ComeInBy(kIn);
  }

  Packet Tcp() const { return To(far_server()).Tcp(kClientPort, kForwarded); }
  Packet Udp() const { return To(far_server()).Udp(kClientPort, kForwarded).Payload(32); }

  static Outcome Lan(const Packet& packet, uint32_t mark = 0) {
    return runner().Run(Hook::kLan, FrameTo(kInMac, packet), mark);
  }
  static void ExpectForwarded(Packet packet) {
    const Outcome outcome = Lan(packet);
    EXPECT_EQ(outcome,
              (Outcome{.code = TC_ACT_REDIRECT, .mark = 0, .reason = TPX_R_FORWARDED, .changed = true}));
    EXPECT_EQ(runner().left(), FrameOf(kOutMac, kHopMac, packet.HopLimit(63)))
        << "more than addresses and hops was changed, or less";
  }
  static void ExpectLeftToTheStack(const Packet& packet, uint32_t mark = 0) {
    EXPECT_EQ(Lan(packet, mark), Leaves(TPX_R_DIRECT, mark));
  }
};
TPX_BOTH_FAMILIES(Forward);

TEST_P(Forward, TcpBehindTheSyn) {
  EXPECT_EQ(Lan(Tcp().Syn()), Leaves(TPX_R_RULE_BYPASS));
  ExpectForwarded(Tcp().Ack());
  ExpectForwarded(Tcp().Ack().Payload(1000));
  ExpectForwarded(Tcp().Ack().Fin());
  ExpectForwarded(Tcp().Rst());
}

TEST_P(Forward, UdpBehindTheFirst) {
  EXPECT_EQ(Lan(Udp()), Leaves(TPX_R_RULE_BYPASS));
  ExpectForwarded(Udp());
  ExpectForwarded(Udp().Payload(1000));
}

TEST_P(Forward, OnlyWhereTheRuleSaysSo) {
  runner().Publish(PolicyOf({RuleFor({kForwarded}, TPX_ACTION_BYPASS, TPX_FAIL_OPEN, {6, 17})}));
  ExpectLeftToTheStack(Tcp().Ack());
  Lan(Udp());
  ExpectLeftToTheStack(Udp());
}

TEST_P(Forward, OtherRulesBeside) {
  ExpectLeftToTheStack(To(far_server()).Tcp(kClientPort, kBypassed).Ack());
  Lan(To(far_server()).Udp(kClientPort, kBypassed));
  ExpectLeftToTheStack(To(far_server()).Udp(kClientPort, kBypassed));
}

TEST_P(Forward, NotFromTheWan) {
  EXPECT_EQ(runner().Run(Hook::kWan, FrameTo(kInMac, Tcp().Ack())), Leaves(TPX_R_WAN));
  EXPECT_EQ(runner().Run(Hook::kWan, FrameTo(kInMac, Udp())), Leaves(TPX_R_WAN));
}

TEST_P(Forward, LastHopIsTheStacksToTell) {
  ExpectForwarded(Tcp().Ack());
  for (uint8_t hops : {0, 1}) ExpectLeftToTheStack(Tcp().Ack().HopLimit(hops));
  Lan(Udp());
  ExpectLeftToTheStack(Udp().HopLimit(1));
}

TEST_P(Forward, TooLongForTheRoute) {
  const size_t headers = v4() ? 40 : 60;
  ExpectForwarded(Tcp().Ack().Payload(1400 - headers));
  ExpectLeftToTheStack(Tcp().Ack().Payload(1401 - headers));
  Lan(Udp());
  ExpectLeftToTheStack(Udp().Payload(1401));
}

TEST_P(Forward, WhatIsNotPlain) {
  if (v4()) {
    ExpectLeftToTheStack(Tcp().Ack().Option({1, 1, 1, 1}));
  } else {
    ExpectLeftToTheStack(Tcp().Ack().Extension(0));
    ExpectLeftToTheStack(Tcp().Ack().Extension(60));
  }
  Lan(Udp());
  ExpectLeftToTheStack(Udp().Fragment(0, true));
  EXPECT_EQ(Lan(To(far_server()).Fragment(1480, false).Protocol(17).Payload(64)), Leaves(TPX_R_FRAG_PASSED));
}

TEST_P(Forward, MarksMayChooseTheRoute) { ExpectLeftToTheStack(Tcp().Ack(), 0x12); }

TEST_P(Forward, ForSomebodyElse) {
  Bytes frame = FrameTo(kInMac, Tcp().Ack());
  frame[5] = 0x77;
  EXPECT_EQ(runner().Run(Hook::kLan, frame), Leaves(TPX_R_DIRECT));
}

TEST_P(Forward, WithoutANeighbourOrARoute) {
  ExpectLeftToTheStack(To(no_neighbour()).Tcp(kClientPort, kForwarded).Ack());
  ExpectLeftToTheStack(To(v4() ? "203.0.113.200" : "2001:db8:4::1").Tcp(kClientPort, kForwarded).Ack());
}

// Whoever sends from there, the stack has its own opinion of it.
TEST_P(Forward, FromWhereNothingIsForwarded) {
  for (const char* source : {f().gateway, f().link_local, f().loopback, f().multicast, f().unspecified})
    EXPECT_EQ(Lan(Packet().Ip(source, far_server()).Tcp(kClientPort, kForwarded).Ack()), Leaves(TPX_R_DIRECT))
        << source;
  const Packet link_local = Packet().Ip(f().link_local, far_server()).Udp(kClientPort, kForwarded);
  EXPECT_EQ(Lan(link_local), Leaves(TPX_R_RULE_BYPASS));
  EXPECT_EQ(Lan(link_local), Leaves(TPX_R_DIRECT));
}

TEST_P(Forward, BackToWhereItCameFrom) {
  ExpectLeftToTheStack(To(behind_itself()).Tcp(kClientPort, kForwarded).Ack());
}

TEST_P(Forward, WhereTheStackForwardsNothing) {
  const std::string path = v4() ? "net.ipv4.conf.in0.forwarding" : "net.ipv6.conf.in0.forwarding";
  Shell("sysctl -qw " + path + "=0");
  ExpectLeftToTheStack(Tcp().Ack());
  Shell("sysctl -qw " + path + "=1");
  ExpectForwarded(Tcp().Ack());
}

}  // namespace
}  // namespace tpx::test
