// SPDX-License-Identifier: Apache-2.0
// UDP flows: the first datagram decides, the rest follows until the flow is silent.
#include <set>

#include "support/connection.h"
#include "support/packet_fixture.h"

namespace tpx::test {
namespace {

class Udp : public DatagramTest {
 protected:
  // Of the rule for the port; the rules are in the order of UdpPolicy.
  static uint64_t Hits(uint32_t rule) { return runner().RuleHits(runner().generation(), rule); }
  static constexpr uint32_t kRuleProxied = 0, kRuleDropped = 6, kRuleRejected = 7, kRuleDefault = 8;

  int ListenerOf(uint16_t port, uint16_t sport = kClientPort) const {
    return runner().Lookup(Flow(port, sport)).listener;
  }
  int WorkerOf(uint16_t port, uint16_t sport = kClientPort) const {
    return ListenerOf(port, sport) / TPX_LISTENER_KINDS;
  }
  static void StopWorkers() {
    for (uint32_t worker : {0, 1}) runner().EndLease(worker);
  }
  static void ResumeWorkers() {
    for (uint32_t worker : {0, 1}) runner().SetLease(worker, 60'000);
  }
};
TPX_BOTH_FAMILIES(Udp);

TEST_P(Udp, TheFirstDatagramIsJudgedAndTheOthersFollow) {
  for (uint16_t port : {kProxied, kProxiedClosed, kProxiedReset, kPreserved}) {
    EXPECT_EQ(Lan(To(port)), Leaves(TPX_R_RULE_PROXY)) << port;
    for (int i = 0; i < 3; ++i) EXPECT_EQ(Lan(To(port)), Leaves(TPX_R_ESTABLISHED)) << port;
  }
  for (uint16_t port : {kPaired, kRedirected}) {
    EXPECT_EQ(Lan(To(port)), Leaves(TPX_R_RULE_PROXY)) << port;
    EXPECT_EQ(Lan(To(port)), Leaves(TPX_R_ESTABLISHED)) << port;
  }
  EXPECT_EQ(Lan(To(kBypassed)), Leaves(TPX_R_RULE_BYPASS));
  EXPECT_EQ(Lan(To(kBypassed)), Leaves(TPX_R_DIRECT));
}

TEST_P(Udp, AFlowIsOneTupleInOneProtocol) {
  Lan(To(kProxied));
  EXPECT_EQ(Lan(To(kProxied, kClientPort + 1)), Leaves(TPX_R_RULE_PROXY));
  EXPECT_EQ(Lan(Packet().Ip(f().client, f().other_server).Udp(kClientPort, kProxied)),
            Leaves(TPX_R_RULE_PROXY));
  EXPECT_EQ(Lan(FromClient().Tcp(kClientPort, kProxied).Ack()), Leaves(TPX_R_DIRECT));
  EXPECT_EQ(Lan(SynTo(kProxied)), Leaves(TPX_R_RULE_BYPASS)) << "the rules are about UDP";
}

TEST_P(Udp, EachFlowCountsOnceForItsRule) {
  const uint64_t proxied = Hits(kRuleProxied), bypassed = Hits(kRuleDefault);
  for (int i = 0; i < 5; ++i) {
    Lan(To(kProxied));
    Lan(To(kBypassed));
    runner().Lookup(Flow(kProxied));
  }
  EXPECT_EQ(Hits(kRuleProxied), proxied + 1);
  EXPECT_EQ(Hits(kRuleDefault), bypassed + 1);
}

TEST_P(Udp, DenialsAreJudgedEachTimeAndNotRemembered) {
  const uint64_t dropped = Hits(kRuleDropped), rejected = Hits(kRuleRejected);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(Lan(To(kDropped)), Leaves(TPX_R_RULE_DROP));
    EXPECT_EQ(Lan(To(kRejected)), Leaves(TPX_R_RULE_REJECT));
  }
  EXPECT_EQ(Hits(kRuleDropped), dropped + 3);
  EXPECT_EQ(Hits(kRuleRejected), rejected + 3);
  EXPECT_FALSE(runner().InFlows(Flow(kDropped)));
  EXPECT_FALSE(runner().InFlows(Flow(kRejected)));
}

TEST_P(Udp, AFlowKeepsItsDecisionThroughAReload) {
  Lan(To(kProxied));
  Lan(To(kRedirected));
  Lan(To(kBypassed));
  runner().Publish(PolicyOf({RuleFor({}, TPX_ACTION_DROP, TPX_FAIL_OPEN, {kUdp})}));
  EXPECT_EQ(Lan(To(kProxied)), Leaves(TPX_R_ESTABLISHED));
  EXPECT_EQ(runner().Lookup(Flow(kProxied)).reason, TPX_R_LK_STEERED);
  EXPECT_EQ(ListenerOf(kRedirected) % TPX_LISTENER_KINDS, TPX_LISTENER_UDP_PAIR);
  EXPECT_EQ(Lan(To(kBypassed)), Leaves(TPX_R_DIRECT));
  EXPECT_EQ(Lan(To(kProxied, 1)), Leaves(TPX_R_RULE_DROP)) << "a new one";
  runner().Flip(0);
  EXPECT_EQ(Lan(To(kProxied)), Leaves(TPX_R_ESTABLISHED));
}

TEST_P(Udp, ASilentFlowIsDecidedAnew) {
  Lan(To(kProxied));
  Lan(To(kBypassed));
  for (uint16_t port : {kProxied, kBypassed}) {
    const uint32_t seen = runner().Remembered(Flow(port))->seen_s;
    runner().AgeFlow(Flow(port), 178);
    EXPECT_EQ(Lan(To(port)), Leaves(port == kProxied ? TPX_R_ESTABLISHED : TPX_R_DIRECT));
    EXPECT_GE(runner().Remembered(Flow(port))->seen_s, seen) << "a datagram keeps it";
    runner().AgeFlow(Flow(port), 182);
  }
  const uint64_t hits = Hits(kRuleProxied);
  EXPECT_EQ(Lan(To(kProxied)), Leaves(TPX_R_RULE_PROXY));
  EXPECT_EQ(Hits(kRuleProxied), hits + 1);
  runner().Publish(PolicyOf({RuleFor({}, TPX_ACTION_DROP, TPX_FAIL_OPEN, {kUdp})}));
  EXPECT_EQ(Lan(To(kBypassed)), Leaves(TPX_R_RULE_DROP));
}

// Another CPU may have stored a later second than the one that this packet's began in.
TEST_P(Udp, AFlowJustSeenElsewhereIsNotANewOne) {
  Lan(To(kProxied));
  runner().AgeFlow(Flow(kProxied), static_cast<uint32_t>(-2));
  EXPECT_EQ(Lan(To(kProxied)), Leaves(TPX_R_ESTABLISHED));
}

TEST_P(Udp, TheProxySaysHowLongSilenceIs) {
  runner().control().udp_flow_s = 1000;
  Lan(To(kProxied));
  runner().AgeFlow(Flow(kProxied), 990);
  EXPECT_EQ(Lan(To(kProxied)), Leaves(TPX_R_ESTABLISHED));
  runner().control().udp_flow_s = 10;
  runner().AgeFlow(Flow(kProxied), 12);
  EXPECT_EQ(Lan(To(kProxied)), Leaves(TPX_R_RULE_PROXY));
}

TEST_P(Udp, E5_AFlowThatBeganWhileNobodyServedStaysDirect) {
  StopWorkers();
  EXPECT_EQ(Lan(To(kProxied)), Leaves(TPX_R_DOWN_OPEN));
  EXPECT_EQ(Lan(To(kRedirected)), Leaves(TPX_R_DOWN_OPEN));
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(Lan(To(kProxiedClosed)), Leaves(TPX_R_DOWN_CLOSED));
    EXPECT_EQ(Lan(To(kProxiedReset)), Leaves(TPX_R_DOWN_RESET));
    EXPECT_EQ(Lan(To(kProxied)), Leaves(TPX_R_DIRECT));
  }
  ResumeWorkers();
  EXPECT_EQ(Lan(To(kProxied)), Leaves(TPX_R_DIRECT));
  EXPECT_EQ(Lan(To(kRedirected)), Leaves(TPX_R_DIRECT));
  EXPECT_EQ(runner().Lookup(Flow(kProxied)), Found(TPX_R_LK_NOT_OURS));
  EXPECT_EQ(runner().Lookup(Flow(kRedirected)), Found(TPX_R_LK_NOT_OURS));
  EXPECT_EQ(Lan(To(kProxiedClosed)), Leaves(TPX_R_RULE_PROXY));
  EXPECT_EQ(Lan(To(kProxiedReset)), Leaves(TPX_R_RULE_PROXY));
  runner().AgeFlow(Flow(kProxied), 182);
  EXPECT_EQ(Lan(To(kProxied)), Leaves(TPX_R_RULE_PROXY)) << "until it is silent";
}

TEST_P(Udp, AFlowWhoseWorkerIsGoneGoesToAnother) {
  runner().StartWorkers(4);
  Lan(To(kProxied));
  const int before = WorkerOf(kProxied);
  ASSERT_TRUE(before >= 0 && before < 4);
  runner().CloseListeners(static_cast<uint32_t>(before));
  EXPECT_EQ(Lan(To(kProxied)), Leaves(TPX_R_ESTABLISHED));
  const int after = WorkerOf(kProxied);
  EXPECT_EQ(after, (before + 1) % 4);
  runner().EndLease(static_cast<uint32_t>(after));
  EXPECT_EQ(Lan(To(kProxied)), Leaves(TPX_R_ESTABLISHED));
  EXPECT_EQ(WorkerOf(kProxied), (before + 2) % 4);
}

TEST_P(Udp, E5_AFlowThatLosesAllWorkersGoesAsItsRuleSays) {
  for (uint16_t port : {kProxied, kProxiedClosed, kProxiedReset}) Lan(To(port));
  StopWorkers();
  EXPECT_EQ(Lan(To(kProxied)), Leaves(TPX_R_DOWN_OPEN));
  EXPECT_EQ(Lan(To(kProxied)), Leaves(TPX_R_DIRECT));
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(Lan(To(kProxiedClosed)), Leaves(TPX_R_DOWN_CLOSED));
    EXPECT_EQ(Lan(To(kProxiedReset)), Leaves(TPX_R_DOWN_RESET));
  }
  ResumeWorkers();
  EXPECT_EQ(Lan(To(kProxied)), Leaves(TPX_R_DIRECT));
  EXPECT_EQ(Lan(To(kProxiedClosed)), Leaves(TPX_R_ESTABLISHED));
  EXPECT_EQ(Lan(To(kProxiedReset)), Leaves(TPX_R_ESTABLISHED));
}

TEST_P(Udp, E5_WorkersThatDrainKeepTheirFlows) {
  for (uint16_t port : {kProxied, kProxiedClosed, kProxiedReset}) Lan(To(port));
  runner().SetState(0, TPX_WORKER_DRAINING);
  runner().SetState(1, TPX_WORKER_DRAINING);
  for (uint16_t port : {kProxied, kProxiedClosed, kProxiedReset}) {
    EXPECT_EQ(Lan(To(port)), Leaves(TPX_R_ESTABLISHED)) << port;
    EXPECT_EQ(runner().Lookup(Flow(port)).reason, TPX_R_LK_STEERED) << port;
  }
  EXPECT_EQ(Lan(To(kProxied, 1)), Leaves(TPX_R_BUSY_OPEN));
  EXPECT_EQ(Lan(To(kProxied, 1)), Leaves(TPX_R_DIRECT));
  EXPECT_EQ(Lan(To(kProxiedClosed, 1)), Leaves(TPX_R_BUSY_CLOSED));
  EXPECT_EQ(Lan(To(kProxiedReset, 1)), Leaves(TPX_R_BUSY_RESET));
}

TEST_P(Udp, E1_WorkersAtTheirLimitOfTcpSessionsTakeDatagrams) {
  for (uint32_t worker : {0, 1}) runner().SetState(worker, TPX_WORKER_FULL);
  for (uint16_t port : {kProxied, kProxiedClosed, kProxiedReset}) {
    EXPECT_EQ(Lan(To(port)), Leaves(TPX_R_RULE_PROXY)) << port;
    EXPECT_EQ(runner().Lookup(Flow(port)).reason, TPX_R_LK_STEERED) << port;
  }
}

TEST_P(Udp, AllFlowsOfAnEndpointComeToOneWorker) {
  runner().StartWorkers(8);
  std::set<int> workers;
  for (uint16_t sport = 20'000; sport < 20'100; ++sport) {
    const int worker = WorkerOf(kProxied, sport);
    workers.insert(worker);
    for (uint16_t port : {uint16_t{kProxiedClosed}, uint16_t{kPreserved}, uint16_t{kPaired}}) {
      Lan(To(port, sport));
      ASSERT_EQ(WorkerOf(port, sport), worker);
    }
    Packet elsewhere = Packet().Ip(f().client, f().other_server).Udp(sport, kProxied);
    ASSERT_EQ(Lan(elsewhere), Leaves(TPX_R_RULE_PROXY));
    tpx_flow flow = FlowOf(Address(f().client), sport, Address(f().other_server), kProxied, kUdp);
    ASSERT_EQ(runner().Lookup(flow).listener / TPX_LISTENER_KINDS, worker);
  }
  EXPECT_EQ(workers.size(), 8U);
}

TEST_P(Udp, EachKindOfFlowHasItsListener) {
  runner().StartWorkers(1);
  for (bool judged : {false, true}) {
    EXPECT_EQ(ListenerOf(kProxied), TPX_LISTENER(0, TPX_LISTENER_UDP_MASQUERADE)) << judged;
    EXPECT_EQ(ListenerOf(kPreserved), TPX_LISTENER(0, TPX_LISTENER_UDP_PRESERVE)) << judged;
    EXPECT_EQ(ListenerOf(kPaired), TPX_LISTENER(0, TPX_LISTENER_UDP_PAIR)) << judged;
    EXPECT_EQ(ListenerOf(kRedirected), TPX_LISTENER(0, TPX_LISTENER_UDP_PAIR)) << judged;
    for (uint16_t port : {uint16_t{kProxied}, uint16_t{kPreserved}, uint16_t{kPaired}, uint16_t{kRedirected}})
      Lan(To(port));
  }
  auto redirected = runner().Remembered(Flow(kRedirected));
  ASSERT_TRUE(redirected.has_value());
  EXPECT_EQ(redirected->action, TPX_ACTION_REDIRECT);
  EXPECT_EQ(IpAddr{redirected->to.addr}, Address(f().other_server));
  EXPECT_EQ(redirected->to.port, __builtin_bswap16(kTargetPort));
}

TEST_P(Udp, ALookupLeavesNoTrace) {
  // It also runs before tc, where packets are gathered.
  const uint64_t hits = Hits(kRuleProxied);
  EXPECT_EQ(runner().Lookup(Flow(kProxied)).reason, TPX_R_LK_STEERED);
  EXPECT_EQ(runner().Lookup(Flow(kBypassed)).reason, TPX_R_LK_NOT_OURS);
  EXPECT_EQ(runner().Lookup(Flow(kDropped)).reason, TPX_R_LK_REFUSED);
  for (uint16_t port : {kProxied, kBypassed, kDropped}) EXPECT_FALSE(runner().InFlows(Flow(port)));
  EXPECT_EQ(Hits(kRuleProxied), hits);
  EXPECT_EQ(Lan(To(kProxied)), Leaves(TPX_R_RULE_PROXY));
}

TEST_P(Udp, AFlowThatWasPushedOutGetsTheSameVerdict) {
  runner().StartWorkers(8);
  for (uint16_t port : {uint16_t{kProxied}, uint16_t{kPaired}, uint16_t{kRedirected}}) {
    Lan(To(port));
    const LookupOutcome before = runner().Lookup(Flow(port));
    runner().ForgetFlows();
    EXPECT_EQ(runner().Lookup(Flow(port)), before) << port;
    EXPECT_EQ(Lan(To(port)), Leaves(TPX_R_RULE_PROXY)) << port;
    EXPECT_EQ(runner().Lookup(Flow(port)), before) << port;
  }
}

TEST_P(Udp, TheVerdictSaysWhetherDatagramsMayBeFragmented) {
  auto fragmentable = [&] { return runner().Remembered(Flow(kProxied))->fragmentable; };
  Lan(To(kProxied));
  EXPECT_EQ(fragmentable(), v4() ? 1 : 0);
  Lan(To(kProxied).DontFragment());
  EXPECT_EQ(fragmentable(), 0);
  Lan(To(kProxied));
  EXPECT_EQ(fragmentable(), v4() ? 1 : 0);
  Lan(To(kPaired).DontFragment());
  EXPECT_EQ(runner().Remembered(Flow(kPaired))->fragmentable, 0);
}

TEST_P(Udp, P1_TruncatedHeadersAreLeftToTheStack) {
  for (size_t bytes = 0; bytes < 8; ++bytes) {
    EXPECT_EQ(Lan(FromClient().Udp(1, kDropped).TransportBytes(bytes)), Leaves(TPX_R_MALFORMED)) << bytes;
  }
  EXPECT_EQ(Lan(FromClient().Udp(1, kDropped)), Leaves(TPX_R_RULE_DROP)) << "nothing but a header";
}

TEST_P(Udp, P1_LengthsThatReceiversRefuseAreLeftToTheStack) {
  for (uint16_t length : {1, 4, 7, 41, 0xffff}) {
    EXPECT_EQ(Lan(To(kDropped).UdpLength(length)), Leaves(TPX_R_MALFORMED)) << length;
  }
  for (uint16_t length : {8, 39, 40}) {
    EXPECT_EQ(Lan(To(kDropped).UdpLength(length)), Leaves(TPX_R_RULE_DROP)) << length;
  }
  EXPECT_EQ(Lan(To(kDropped).UdpLength(0)), Leaves(v4() ? TPX_R_MALFORMED : TPX_R_RULE_DROP))
      << "IPv6 receivers take it";
  Packet first = FromClient().Fragment(0, true).Udp(1, kDropped).UdpLength(3000).Payload(56);
  EXPECT_EQ(Lan(first), Leaves(TPX_R_RULE_DROP)) << "the length is that of the whole";
}

TEST_P(Udp, P9_ChecksumsDoNotMatter) {
  EXPECT_EQ(Lan(To(kProxied).NoChecksum()), Leaves(TPX_R_RULE_PROXY));
  EXPECT_EQ(Lan(To(kDropped).NoChecksum()), Leaves(TPX_R_RULE_DROP));
  EXPECT_EQ(Lan(To(kDropped).BadChecksums()), Leaves(TPX_R_RULE_DROP));
}

TEST_P(Udp, P2_OptionsAreParsedAtTheirLength) {
  if (!v4()) GTEST_SKIP() << "the other family has no such header";
  EXPECT_EQ(Lan(To(kProxied).Option({7, 7, 4, 0, 0, 0, 0})), Leaves(TPX_R_RULE_PROXY));
  EXPECT_EQ(Lan(To(kDropped).Option(Bytes(40, 1))), Leaves(TPX_R_RULE_DROP));
}

TEST_P(Udp, P4_ExtensionHeadersAreWalked) {
  if (v4()) GTEST_SKIP() << "the other family has no such header";
  EXPECT_EQ(Lan(To(kProxied).Extension(0).Extension(60, 24)), Leaves(TPX_R_RULE_PROXY));
  EXPECT_EQ(Lan(To(kProxied)), Leaves(TPX_R_ESTABLISHED)) << "the same flow";
  Packet beyond = To(kDropped);
  for (int i = 0; i < 8; ++i) beyond.Extension(60);
  EXPECT_EQ(Lan(beyond), Leaves(TPX_R_HEADERS_DROPPED));
}

TEST_P(Udp, P17_UdpLiteIsAnotherProtocol) {
  EXPECT_EQ(Lan(FromClient().Protocol(136).Payload(Bytes{0, 1, 1, 0xbb, 0, 8, 0, 0})),
            Leaves(TPX_R_OTHER_PROTOCOL));
}

TEST_P(Udp, P12_TheGatewaysOwnServicesAreNeverTouched) {
  runner().Publish(PolicyOf({RuleFor({}, TPX_ACTION_DROP, TPX_FAIL_OPEN, {kUdp})}));
  for (const char* own : {f().gateway, f().broadcast}) {
    for (uint16_t port : {uint16_t{53}, uint16_t{67}, uint16_t{kProxied}, runner().listen_port()}) {
      Packet packet = Packet().Ip(f().client, own).Udp(kClientPort, port);
      EXPECT_EQ(Lan(packet), Leaves(TPX_R_OWN_ADDRESS)) << own;
      EXPECT_EQ(Wan(packet), Leaves(TPX_R_OWN_ADDRESS)) << own;
    }
  }
  Packet discover = Packet().Ip(f().unspecified, v4() ? "255.255.255.255" : f().multicast).Udp(68, 67);
  EXPECT_EQ(Lan(discover), Leaves(TPX_R_SPECIAL_ADDRESS));
}

TEST_P(Udp, SpecialDestinationsPassAndImpossibleSendersDoNot) {
  for (const char* dst : {f().loopback, f().unspecified, f().multicast, f().link_local, f().metadata}) {
    EXPECT_EQ(Lan(Packet().Ip(f().client, dst).Udp(1, kProxied)), Leaves(TPX_R_SPECIAL_ADDRESS)) << dst;
  }
  for (const char* src : {f().server, f().loopback, f().unspecified, f().multicast, f().gateway}) {
    EXPECT_EQ(Lan(Packet().Ip(src, f().server).Udp(1, kProxied)), Leaves(TPX_R_MARTIAN)) << src;
  }
}

TEST_P(Udp, FragmentsOfAFlowFollowItsDecision) {
  auto first = [&](uint16_t port, uint32_t id) {
    return FromClient().Fragment(0, true, id).Udp(kClientPort, port).Payload(56);
  };
  auto later = [&](uint32_t id) { return FromClient().Fragment(64, false, id).Protocol(kUdp).Payload(64); };
  EXPECT_EQ(Lan(To(kProxied)), Leaves(TPX_R_RULE_PROXY));
  EXPECT_EQ(Lan(first(kProxied, 1)), Leaves(TPX_R_ESTABLISHED));
  EXPECT_EQ(Lan(later(1)), Leaves(TPX_R_FRAG_STEERED));
  EXPECT_EQ(Lan(later(2)), Leaves(TPX_R_FRAG_AHEAD));
  EXPECT_EQ(Lan(first(kProxied, 2)), Leaves(TPX_R_ESTABLISHED));
  EXPECT_EQ(Lan(first(kRejected, 3)), Leaves(TPX_R_REFUSED_QUIETLY)) << "no part of a datagram is answered";
  EXPECT_EQ(Lan(later(3)), Leaves(TPX_R_FRAG_DROPPED));
  EXPECT_EQ(Lan(first(kBypassed, 4)), Leaves(TPX_R_RULE_BYPASS));
  EXPECT_EQ(Lan(later(4)), Leaves(TPX_R_FRAG_PASSED));
}

// What a worker has to know of a redirected connection.
class Redirect : public DatagramTest {
 protected:
  void SetUp() override {
    DatagramTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    policy::Rule redirected = RuleFor({kRedirected}, TPX_ACTION_REDIRECT);
    redirected.target = {.addr = Address(f().other_server), .port = kTargetPort};
    runner().Publish(PolicyOf({redirected, RuleFor({kProxied}, TPX_ACTION_PROXY)}));
  }
};
TPX_BOTH_FAMILIES(Redirect);

TEST_P(Redirect, TheVerdictOfATcpConnectionIsKeptForItsWorker) {
  runner().StartWorkers(1);
  for (bool word_from_tc : {true, false}) {
    runner().ForgetFlows();
    if (word_from_tc) {
      EXPECT_EQ(Lan(SynTo(kRedirected)), Leaves(TPX_R_RULE_PROXY));
    }
    EXPECT_FALSE(runner().InFlows(FlowTo(kRedirected)));
    EXPECT_EQ(runner().Lookup(FlowTo(kRedirected)),
              Found(TPX_R_LK_STEERED, TPX_LISTENER(0, TPX_LISTENER_TCP_REDIRECT)));
    auto kept = runner().Remembered(FlowTo(kRedirected));
    ASSERT_TRUE(kept.has_value());
    EXPECT_EQ(kept->action, TPX_ACTION_REDIRECT);
    EXPECT_EQ(kept->reason, TPX_R_RULE_PROXY);
    EXPECT_EQ(IpAddr{kept->to.addr}, Address(f().other_server));
    EXPECT_EQ(kept->to.port, __builtin_bswap16(kTargetPort));
  }
  Lan(SynTo(kProxied));
  runner().Lookup(FlowTo(kProxied));
  EXPECT_FALSE(runner().InFlows(FlowTo(kProxied))) << "others need no memory";
}

TEST_P(Redirect, NothingIsKeptWhereNobodyTakesTheConnection) {
  for (uint32_t worker : {0, 1}) runner().CloseListeners(worker);
  EXPECT_EQ(runner().Lookup(FlowTo(kRedirected)), Found(TPX_R_LK_NO_WORKER));
  EXPECT_FALSE(runner().InFlows(FlowTo(kRedirected)));
}

TEST_P(Redirect, AKeptVerdictMakesNoConnectionDirect) {
  Connection connection({Address(f().client), 0}, {Address(f().server), kRedirected});
  const uint16_t port = connection.client().port;
  runner().Lookup(FlowTo(kRedirected, port));
  ASSERT_TRUE(runner().InFlows(FlowTo(kRedirected, port)));
  connection.CloseServerFirst();
  EXPECT_EQ(Lan(FromClient().Tcp(port, kRedirected).Ack().Fin()), Leaves(TPX_R_ESTABLISHED));
}

}  // namespace
}  // namespace tpx::test
