// SPDX-License-Identifier: Apache-2.0
// What a rule with forward: fib does to the packets behind the first one of a flow.
#include <linux/pkt_cls.h>

#include <algorithm>

#include "support/packet_fixture.h"

namespace tpx::test {
namespace {

constexpr uint16_t kForwarded = 9000;
constexpr uint32_t kIn = 5001, kOut = 5002;
// Of the device that packets come in by, as the tests' frames have it, of the one they leave by, and of the
// next hop.
constexpr policy::MacAddress kOwnMac = {0x00, 0x53, 0x00, 0x00, 0x00, 0x01};
constexpr policy::MacAddress kOutMac = {0x00, 0x53, 0x00, 0x00, 0x00, 0x02};
constexpr policy::MacAddress kHopMac = {0x00, 0x53, 0x00, 0x00, 0x00, 0x03};

void MakeDevices() {
  Shell(
      "ip link add in0 index 5001 address 00:53:00:00:00:01 type veth peer name in1 && "
      "ip link add out0 index 5002 address 00:53:00:00:00:02 mtu 1400 type veth peer name out1 && "
      "ip link set in1 up && ip link set out1 up && ip link set in0 up && ip link set out0 up");
  Shell("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
  Shell(
      "ip addr add 203.0.113.1/29 dev out0 && ip addr add 2001:db8:3::1/120 dev out0 nodad && "
      "ip neigh add 203.0.113.2 lladdr 00:53:00:00:00:03 dev out0 && "
      "ip neigh add 2001:db8:3::2 lladdr 00:53:00:00:00:03 dev out0");
  Shell(
      "ip route add 203.0.113.128/28 via 203.0.113.2 && ip route add 2001:db8:3:1::/64 via 2001:db8:3::2 && "
      "ip route add 203.0.113.144/28 dev in0 && ip route add 2001:db8:3:2::/64 dev in0");
}

class Forward : public FamilyTest {
 protected:
  static void SetUpTestSuite() {
    if (!ProgRunner::Privileged()) return;
    SharedRunner();
    MakeDevices();
  }
  static void TearDownTestSuite() {
    if (ProgRunner::Privileged()) Shell("ip link del in0 && ip link del out0");
  }

  void SetUp() override {
    FamilyTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    policy::Rule rule = RuleFor({kForwarded}, TPX_ACTION_BYPASS, TPX_FAIL_OPEN, {6, 17});
    rule.forward = TPX_FORWARD_FIB;
    runner().Publish(PolicyOf({rule}));
    runner().ComeInBy(kIn);
  }

  const char* server() const { return v4() ? "203.0.113.130" : "2001:db8:3:1::2"; }
  const char* behind_itself() const { return v4() ? "203.0.113.146" : "2001:db8:3:2::2"; }
  const char* no_neighbour() const { return v4() ? "203.0.113.3" : "2001:db8:3::3"; }
  Packet To(const char* where) const { return Packet().Ip(f().client, where); }
  Packet Tcp() const { return To(server()).Tcp(kClientPort, kForwarded); }
  Packet Udp() const { return To(server()).Udp(kClientPort, kForwarded).Payload(32); }

  static Bytes FrameOf(const Packet& packet) {
    Bytes frame = packet.Build();
    std::copy(kOwnMac.begin(), kOwnMac.end(), frame.begin());
    return frame;
  }
  static Outcome Lan(const Packet& packet, uint32_t mark = 0) {
    return runner().Run(Hook::kLan, FrameOf(packet), mark);
  }
  static void ExpectForwarded(Packet packet) {
    const Outcome outcome = Lan(packet);
    EXPECT_EQ(outcome,
              (Outcome{.code = TC_ACT_REDIRECT, .mark = 0, .reason = TPX_R_FORWARDED, .changed = true}));
    Bytes expected = packet.HopLimit(63).Build();
    std::copy(kHopMac.begin(), kHopMac.end(), expected.begin());
    std::copy(kOutMac.begin(), kOutMac.end(), expected.begin() + 6);
    EXPECT_EQ(runner().left(), expected) << "more than addresses and hops was changed, or less";
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
  ExpectLeftToTheStack(To(server()).Tcp(kClientPort, kBypassed).Ack());
  Lan(To(server()).Udp(kClientPort, kBypassed));
  ExpectLeftToTheStack(To(server()).Udp(kClientPort, kBypassed));
}

TEST_P(Forward, NotFromTheWan) {
  EXPECT_EQ(runner().Run(Hook::kWan, FrameOf(Tcp().Ack())), Leaves(TPX_R_WAN));
  EXPECT_EQ(runner().Run(Hook::kWan, FrameOf(Udp())), Leaves(TPX_R_WAN));
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
  EXPECT_EQ(Lan(To(server()).Fragment(1480, false).Protocol(17).Payload(64)), Leaves(TPX_R_FRAG_PASSED));
}

TEST_P(Forward, MarksMayChooseTheRoute) { ExpectLeftToTheStack(Tcp().Ack(), 0x12); }

TEST_P(Forward, ForSomebodyElse) {
  Bytes frame = FrameOf(Tcp().Ack());
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
    EXPECT_EQ(Lan(Packet().Ip(source, server()).Tcp(kClientPort, kForwarded).Ack()), Leaves(TPX_R_DIRECT))
        << source;
  const Packet link_local = Packet().Ip(f().link_local, server()).Udp(kClientPort, kForwarded);
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
