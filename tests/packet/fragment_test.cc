// SPDX-License-Identifier: Apache-2.0
// Fragments: all of a datagram go the same way, and none evades a rule.
#include "support/packet_fixture.h"

namespace tpx::test {
namespace {

constexpr uint8_t kTcp = 6, kUdp = 17, kDestination = 60;

class Fragment : public FamilyTest {
 protected:
  Packet First(uint16_t port, uint32_t id = 1) const {
    return FromClient().Fragment(0, true, id).Tcp(kClientPort, port).Syn().Payload(44);
  }
  Packet Later(uint32_t id = 1, uint16_t offset = 64, uint8_t protocol = kTcp) const {
    return FromClient().Fragment(offset, false, id).Protocol(protocol).Payload(64);
  }
  // A policy that denies nobody, and proxies one port.
  static void PublishOpen() { runner().Publish(PolicyOf({RuleFor({kProxied}, TPX_ACTION_PROXY)})); }
};
TPX_BOTH_FAMILIES(Fragment);

TEST_P(Fragment, P3_LaterFragmentsShareTheFateOfTheFirst) {
  EXPECT_EQ(Lan(First(kProxied, 1)), Leaves(TPX_R_RULE_PROXY));
  EXPECT_EQ(Lan(First(kDropped, 2)), Leaves(TPX_R_RULE_DROP));
  EXPECT_EQ(Lan(First(kBypassed, 3)), Leaves(TPX_R_RULE_BYPASS));
  for (uint16_t offset : {64, 1480, 0x1fff * 8}) {
    EXPECT_EQ(Lan(Later(1, offset)), Leaves(TPX_R_FRAG_STEERED));
    EXPECT_EQ(Lan(Later(2, offset)), Leaves(TPX_R_FRAG_DROPPED));
    EXPECT_EQ(Lan(Later(3, offset)), Leaves(TPX_R_FRAG_PASSED));
  }
}

TEST_P(Fragment, P3_FragmentsFromTheWanShareTheFateOfTheFirst) {
  EXPECT_EQ(Wan(First(kProxied, 4)), Leaves(TPX_R_WAN));
  EXPECT_EQ(Wan(Later(4)), Leaves(TPX_R_FRAG_PASSED));
  EXPECT_EQ(Wan(Later(5)), Leaves(TPX_R_FRAG_PASSED)) << "no rule speaks of the WAN side";
}

TEST_P(Fragment, P3_LaterFragmentBeforeTheFirstIsDroppedWhereARuleMayDenyIt) {
  EXPECT_EQ(Lan(Later()), Leaves(TPX_R_FRAG_DROPPED));
  runner().Publish(PolicyOf({RuleFor({kDropped}, TPX_ACTION_BYPASS)}));
  EXPECT_EQ(Lan(Later()), Leaves(TPX_R_FRAG_PASSED));
  policy::Rule elsewhere = RuleFor({kDropped}, TPX_ACTION_DROP);
  elsewhere.dst = {*Prefix::Parse(f().other_server)};
  runner().Publish(PolicyOf({elsewhere}));
  EXPECT_EQ(Lan(Later()), Leaves(TPX_R_FRAG_PASSED)) << "the rule is about another destination";
  runner().Publish(PolicyOf({RuleFor({}, TPX_ACTION_BYPASS), RuleFor({kDropped}, TPX_ACTION_DROP)}));
  EXPECT_EQ(Lan(Later()), Leaves(TPX_R_FRAG_PASSED)) << "an earlier rule takes every port";
  runner().Publish(PolicyOf({RuleFor({kProxied}, TPX_ACTION_PROXY, TPX_FAIL_CLOSED)}));
  EXPECT_EQ(Lan(Later()), Leaves(TPX_R_FRAG_DROPPED)) << "a class that is never to go direct";
  runner().Publish(PolicyOf({RuleFor({}, TPX_ACTION_DROP)}));
  EXPECT_EQ(Lan(Later()), Leaves(TPX_R_FRAG_DROPPED)) << "denied whatever its port";
}

TEST_P(Fragment, P3_LaterFragmentBeforeTheFirstGoesToTheProxyWhereARuleMayProxyIt) {
  for (tpx_action action : {TPX_ACTION_PROXY, TPX_ACTION_REDIRECT}) {
    policy::Rule rule = RuleFor({53}, action, TPX_FAIL_OPEN, {kUdp});
    rule.target = {.addr = Address(f().other_server), .port = 5353};
    runner().Publish(PolicyOf({rule}));
    EXPECT_EQ(Lan(Later(1, 64, kUdp)), Leaves(TPX_R_FRAG_AHEAD)) << "it may be of a query";
    EXPECT_EQ(Lan(Later(1, 64, kTcp)), Leaves(TPX_R_FRAG_PASSED)) << "another protocol";
    EXPECT_EQ(Wan(Later(1, 64, kUdp)), Leaves(TPX_R_FRAG_PASSED)) << "no rule speaks of the WAN side";
    runner().Publish(PolicyOf({RuleFor({}, TPX_ACTION_BYPASS, TPX_FAIL_OPEN, {kUdp}), rule}));
    EXPECT_EQ(Lan(Later(1, 64, kUdp)), Leaves(TPX_R_FRAG_PASSED)) << "an earlier rule takes every port";
    runner().Publish(PolicyOf({rule, RuleFor({99}, TPX_ACTION_DROP, TPX_FAIL_OPEN, {kUdp})}));
    EXPECT_EQ(Lan(Later(1, 64, kUdp)), Leaves(TPX_R_FRAG_DROPPED)) << "or of what is denied";
    rule.dst = {*Prefix::Parse(f().other_server)};
    runner().Publish(PolicyOf({rule}));
    EXPECT_EQ(Lan(Later(1, 64, kUdp)), Leaves(TPX_R_FRAG_PASSED)) << "the rule is about another destination";
  }
  PublishOpen();
  EXPECT_EQ(Lan(Later()), Leaves(TPX_R_FRAG_AHEAD));
  for (uint32_t worker : {0, 1}) runner().EndLease(worker);
  EXPECT_EQ(Lan(Later()), Leaves(TPX_R_FRAG_PASSED)) << "nobody serves";
}

TEST_P(Fragment, P3_FateIsOfOneDatagramOnly) {
  Lan(First(kProxied, 1));
  Lan(First(kBypassed, 2));
  PublishOpen();
  EXPECT_EQ(Lan(Later(1)), Leaves(TPX_R_FRAG_STEERED));
  EXPECT_EQ(Lan(Later(2)), Leaves(TPX_R_FRAG_PASSED));
  Packet other = Packet().Ip(f().client, f().other_server).Fragment(64, false, 1).Protocol(kTcp).Payload(8);
  EXPECT_EQ(Lan(other), Leaves(TPX_R_FRAG_AHEAD)) << "another server";
  if (v4()) {
    EXPECT_EQ(Lan(Later(1, 64, kUdp)), Leaves(TPX_R_FRAG_PASSED)) << "IPv4 numbers per protocol";
  }
}

TEST_P(Fragment, P3_AFragmentAheadOfItsFirstFollowsTheLastFirstOfTheTwoAddresses) {
  Lan(First(kProxied, 1));
  EXPECT_EQ(Lan(Later(2)), Leaves(TPX_R_FRAG_AHEAD));
  Lan(First(kDropped, 5));
  EXPECT_EQ(Lan(Later(6)), Leaves(TPX_R_FRAG_DROPPED));
  PublishOpen();
  EXPECT_EQ(Lan(Later(7)), Leaves(TPX_R_FRAG_DROPPED));
  EXPECT_EQ(Lan(Later(8, 64, kUdp)), Leaves(TPX_R_FRAG_PASSED)) << "another protocol";
  Packet other = Packet().Ip(f().client, f().other_server).Fragment(64, false, 9).Protocol(kTcp).Payload(8);
  EXPECT_EQ(Lan(other), Leaves(TPX_R_FRAG_AHEAD)) << "another server";
  runner().AgeFragments(61'000);
  EXPECT_EQ(Lan(Later(7)), Leaves(TPX_R_FRAG_AHEAD)) << "long ago";
}

TEST_P(Fragment, P3_AFirstThatPassesDoesNotVouchForTheOthersOfTheTwoAddresses) {
  for (const auto& [port, reason] :
       {std::pair{kProxied, TPX_R_FRAG_AHEAD}, std::pair{kDropped, TPX_R_FRAG_DROPPED}}) {
    Lan(First(kBypassed, 1));
    EXPECT_EQ(Lan(Later(2)), Leaves(TPX_R_FRAG_PASSED)) << "though a rule may deny it";
    Lan(First(port, 3));
    runner().AgeFragments(30'000);
    Lan(First(kBypassed, 4));
    EXPECT_EQ(Lan(Later(5)), Leaves(reason));
    EXPECT_EQ(Lan(Later(4)), Leaves(TPX_R_FRAG_PASSED)) << "its own first one passed";
    runner().AgeFragments(31'000);
    Lan(First(kBypassed, 6));
    EXPECT_EQ(Lan(Later(7)), Leaves(TPX_R_FRAG_PASSED)) << "only such ones for a minute";
    runner().AgeFragments(61'000);
  }
}

TEST_P(Fragment, P3_AFirstFragmentThatComesLateIsJudgedAsEver) {
  Lan(First(kProxied, 1));
  EXPECT_EQ(Lan(Later(2)), Leaves(TPX_R_FRAG_AHEAD));
  EXPECT_EQ(Lan(First(kDropped, 2)), Leaves(TPX_R_RULE_DROP));
  EXPECT_EQ(Lan(Later(2, 128)), Leaves(TPX_R_FRAG_DROPPED));
}

TEST_P(Fragment, FromTheWanAFragmentAheadFollowsTheLastFirstToo) {
  Lan(First(kProxied, 1));
  EXPECT_EQ(Wan(Later(2)), Leaves(TPX_R_FRAG_AHEAD));
  runner().AgeFragments(61'000);
  EXPECT_EQ(Wan(First(kProxied, 3)), Leaves(TPX_R_WAN));
  EXPECT_EQ(Wan(Later(4)), Leaves(TPX_R_FRAG_PASSED));
}

TEST_P(Fragment, AUdpFragmentAheadGoesWhereEveryPortGoes) {
  auto proxied = [](tpx_fail_mode mode) { return RuleFor({}, TPX_ACTION_PROXY, mode, {kUdp}); };
  runner().Publish(PolicyOf({proxied(TPX_FAIL_OPEN)}));
  EXPECT_EQ(Lan(Later(1, 64, kUdp)), Leaves(TPX_R_FRAG_AHEAD));
  EXPECT_EQ(Lan(Later(1, 64, kTcp)), Leaves(TPX_R_FRAG_PASSED));
  policy::Rule redirected = RuleFor({}, TPX_ACTION_REDIRECT, TPX_FAIL_OPEN, {kUdp});
  redirected.target = {.addr = Address(f().other_server), .port = 5353};
  runner().Publish(PolicyOf({redirected}));
  EXPECT_EQ(Lan(Later(1, 64, kUdp)), Leaves(TPX_R_FRAG_AHEAD));
  // A rule for TCP before it does not matter, one for a port does.
  runner().Publish(PolicyOf({RuleFor({}, TPX_ACTION_BYPASS), proxied(TPX_FAIL_OPEN)}));
  EXPECT_EQ(Lan(Later(1, 64, kUdp)), Leaves(TPX_R_FRAG_AHEAD));
  runner().Publish(
      PolicyOf({RuleFor({53}, TPX_ACTION_BYPASS, TPX_FAIL_OPEN, {kUdp}), proxied(TPX_FAIL_OPEN)}));
  EXPECT_EQ(Lan(Later(1, 64, kUdp)), Leaves(TPX_R_FRAG_AHEAD));
  for (uint32_t worker : {0, 1}) runner().EndLease(worker);
  for (auto mode : {TPX_FAIL_OPEN, TPX_FAIL_CLOSED, TPX_FAIL_RESET}) {
    runner().Publish(PolicyOf({proxied(mode)}));
    EXPECT_EQ(Lan(Later(1, 64, kUdp)),
              Leaves(mode == TPX_FAIL_OPEN ? TPX_R_FRAG_PASSED : TPX_R_FRAG_DROPPED));
  }
}

TEST_P(Fragment, AUdpFragmentAheadOfADirectFlowIsNotSteered) {
  // Every port is proxied, but the flow began while nobody served.
  runner().Publish(PolicyOf({RuleFor({}, TPX_ACTION_PROXY, TPX_FAIL_OPEN, {kUdp})}));
  for (uint32_t worker : {0, 1}) runner().EndLease(worker);
  Packet first = FromClient().Fragment(0, true, 1).Udp(1, 2).Payload(56);
  EXPECT_EQ(Lan(first), Leaves(TPX_R_DOWN_OPEN));
  for (uint32_t worker : {0, 1}) runner().SetLease(worker, 60'000);
  EXPECT_EQ(Lan(Later(2, 64, kUdp)), Leaves(TPX_R_FRAG_PASSED));
}

TEST_P(Fragment, P3_ALaterDatagramWithTheSameNumberHasItsOwnFate) {
  Lan(First(kProxied, 1));
  Lan(First(kDropped, 1));
  EXPECT_EQ(Lan(Later(1)), Leaves(TPX_R_FRAG_DROPPED));
}

TEST_P(Fragment, P3_AnOldFateIsForgotten) {
  Lan(First(kProxied, 1));
  PublishOpen();
  runner().AgeFragments(59'000);
  EXPECT_EQ(Lan(Later(1)), Leaves(TPX_R_FRAG_STEERED));
  runner().AgeFragments(2'000);
  EXPECT_EQ(Lan(Later(1)), Leaves(TPX_R_FRAG_AHEAD));
}

TEST_P(Fragment, P3_TinyFirstFragmentIsDroppedWhereARuleMayDenyIt) {
  for (size_t bytes : {0, 1, 8, 16, 19}) {
    runner().Publish(PolicyOf({RuleFor({kDropped}, TPX_ACTION_DROP)}));
    EXPECT_EQ(Lan(First(kDropped).TransportBytes(bytes)), Leaves(TPX_R_FRAG_DROPPED)) << bytes;
    PublishOpen();
    EXPECT_EQ(Lan(First(kDropped).TransportBytes(bytes)), Leaves(TPX_R_FRAG_PASSED)) << bytes;
  }
}

TEST_P(Fragment, P3_PaddingDoesNotCompleteATinyFirstFragment) {
  // What follows the 8 bytes is Ethernet padding that looks like the rest of an ACK.
  Packet tiny = First(kDropped).TransportBytes(8).Padding({0, 0, 0, 0, 0x50, 16, 0, 0, 0, 0, 0, 0, 0, 0});
  EXPECT_EQ(Lan(tiny), Leaves(TPX_R_FRAG_DROPPED));
}

TEST_P(Fragment, P3_LaterFragmentMayNotOverlapTheTcpHeader) {
  // The first one passes as an ACK; the second would turn it into a SYN at the server.
  Packet ack = FromClient().Fragment(0, true, 1).Tcp(kClientPort, kDropped).Ack().Payload(44);
  EXPECT_EQ(Lan(ack), Leaves(TPX_R_DIRECT));
  if (v4()) {
    EXPECT_EQ(Lan(Later(1, 8)), Leaves(TPX_R_FRAG_DROPPED));
    EXPECT_EQ(Lan(Later(1, 16)), Leaves(TPX_R_FRAG_DROPPED));
  }
  EXPECT_EQ(Lan(Later(1, 24)), Leaves(TPX_R_FRAG_PASSED));
  EXPECT_EQ(Lan(Later(1, 64)), Leaves(TPX_R_FRAG_PASSED));
}

TEST_P(Fragment, UdpFragmentsFollowTheRuleOfTheirPorts) {
  runner().Publish(PolicyOf({RuleFor({53}, TPX_ACTION_DROP, TPX_FAIL_OPEN, {kUdp})}));
  Packet first = FromClient().Fragment(0, true, 1).Udp(1, 53).Payload(56);
  Packet other = FromClient().Fragment(0, true, 2).Udp(1, 54).Payload(56);
  EXPECT_EQ(Lan(first), Leaves(TPX_R_RULE_DROP));
  EXPECT_EQ(Lan(other), Leaves(TPX_R_RULE_BYPASS));
  EXPECT_EQ(Lan(Later(1, 64, kUdp)), Leaves(TPX_R_FRAG_DROPPED));
  EXPECT_EQ(Lan(Later(2, 64, kUdp)), Leaves(TPX_R_FRAG_PASSED));
  runner().AgeFragments(61'000);
  EXPECT_EQ(Lan(Later(3, 64, kUdp)), Leaves(TPX_R_FRAG_DROPPED));
  EXPECT_EQ(Lan(Later(3, 64, kTcp)), Leaves(TPX_R_FRAG_PASSED)) << "the rule is about UDP";
}

TEST_P(Fragment, P3_TinyUdpFragmentIsNoWayAroundARule) {
  runner().Publish(PolicyOf({RuleFor({53}, TPX_ACTION_DROP, TPX_FAIL_OPEN, {kUdp})}));
  Packet tiny = FromClient().Fragment(0, true, 1).Udp(1, 53).TransportBytes(2);
  EXPECT_EQ(Lan(tiny), Leaves(TPX_R_FRAG_DROPPED));
}

TEST_P(Fragment, P5_IncompleteHeaderChainInTheFirstFragment) {
  if (v4()) GTEST_SKIP() << "the other family has no such header";
  Packet incomplete = FromClient().Fragment(0, true).Protocol(kDestination).Payload(4);
  EXPECT_EQ(Lan(incomplete), Leaves(TPX_R_FRAG_DROPPED)) << "the protocol is unknown: any rule may deny it";
  Packet cut =
      FromClient().Fragment(0, true).Extension(kDestination, 24).Tcp(1, kDropped).Syn().TransportBytes(0);
  EXPECT_EQ(Lan(cut), Leaves(TPX_R_FRAG_DROPPED));
  PublishOpen();
  EXPECT_EQ(Lan(incomplete), Leaves(TPX_R_FRAG_PASSED));
  EXPECT_EQ(Lan(cut), Leaves(TPX_R_FRAG_PASSED));
}

TEST_P(Fragment, P5_HeadersBehindTheFragmentHeaderAreWalked) {
  if (v4()) GTEST_SKIP() << "the other family has no such header";
  Packet first = FromClient().Fragment(0, true, 9).Extension(kDestination).Tcp(kClientPort, kProxied).Syn();
  EXPECT_EQ(Lan(first), Leaves(TPX_R_RULE_PROXY));
  // The later ones name the first header of the fragmentable part, not TCP.
  EXPECT_EQ(Lan(Later(9, 64, kDestination)), Leaves(TPX_R_FRAG_STEERED));
  EXPECT_EQ(Lan(Later(10, 64, kDestination)), Leaves(TPX_R_FRAG_AHEAD));
  PublishOpen();
  runner().AgeFragments(61'000);
  EXPECT_EQ(Lan(Later(11, 64, kDestination)), Leaves(TPX_R_FRAG_AHEAD)) << "it may be of TCP";
}

TEST_P(Fragment, P3_AWholePacketInOneFragmentIsOrdinary) {
  Packet atomic = FromClient().Fragment(0, false, 7).Tcp(kClientPort, kProxied).Syn();
  EXPECT_EQ(Lan(atomic), Leaves(TPX_R_RULE_PROXY));
  EXPECT_EQ(Lan(Later(7)), Leaves(TPX_R_FRAG_DROPPED)) << "nothing is remembered of it";
}

}  // namespace
}  // namespace tpx::test
