// SPDX-License-Identifier: Apache-2.0
// What XDP drops before anybody else sees it, and what it leaves to tc.
#include <linux/bpf.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "support/connection.h"
#include "support/packet_fixture.h"
#include "tpx_event.h"

namespace tpx::test {
namespace {

constexpr policy::MacAddress kMac = {0x00, 0x53, 0xff, 0x12, 0x34, 0x56};
constexpr uint16_t kPenalty = 1005, kPenaltyClosed = 1006, kPenaltyBypass = 1007;

Outcome Passes() { return {.code = XDP_PASS, .mark = 0, .reason = -1, .changed = false}; }
Outcome Notes(tpx_reason reason) {
  return {.code = XDP_PASS, .mark = 0, .reason = -1, .changed = false, .noted = reason};
}
Outcome Drops(tpx_reason reason) { return {.code = XDP_DROP, .mark = 0, .reason = reason, .changed = false}; }

class Xdp : public DatagramTest {
 protected:
  void SetUp() override {
    DatagramTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    Publish();
  }

  // The ports of both fixtures, and rules with penalties.
  void Publish(std::vector<policy::Rule> first = {}) const {
    std::vector<policy::Rule> rules = std::move(first);
    for (policy::Rule rule : UdpPolicy().rules) {
      if (rule.dports.empty()) continue;  // the default
      rule.protocols = {6, kUdp};
      rules.push_back(std::move(rule));
    }
    rules.push_back(Penalised(kPenalty, TPX_ACTION_PROXY, TPX_FAIL_OPEN));
    rules.push_back(Penalised(kPenaltyClosed, TPX_ACTION_PROXY, TPX_FAIL_CLOSED));
    rules.push_back(Penalised(kPenaltyBypass, TPX_ACTION_BYPASS, TPX_FAIL_OPEN));
    runner().Publish(PolicyOf(std::move(rules)));
  }
  static policy::Rule Penalised(uint16_t port, tpx_action action, tpx_fail_mode mode) {
    policy::Rule rule = RuleFor({port}, action, mode, {6, kUdp});
    rule.limit = {.per_second = 1, .burst = 1, .penalty_s = 60};
    return rule;
  }
  static Outcome Early(const Packet& packet) { return runner().RunEarly(packet.Build()); }
  static Outcome Early(const Bytes& frame) { return runner().RunEarly(frame); }
  // Of a datagram whose flow tc has noted as seen in this second.
  Outcome EarlyInTheSameSecond(uint16_t port) const {
    Outcome outcome;
    for (int i = 0; i < 3; ++i) {
      Lan(To(port));
      outcome = Early(To(port));
      if (outcome.noted != -1) break;
    }
    return outcome;
  }
};
TPX_BOTH_FAMILIES(Xdp);

TEST_P(Xdp, DropsWhatARuleDrops) {
  EXPECT_EQ(Early(SynTo(kDropped)), Drops(TPX_R_RULE_DROP));
  EXPECT_EQ(Early(To(kDropped)), Drops(TPX_R_RULE_DROP));
  EXPECT_FALSE(runner().InFlows(Flow(kDropped)));
}

TEST_P(Xdp, CountsWhatItDropsOnceForItsRule) {
  Publish({RuleFor({kDropped}, TPX_ACTION_DROP, TPX_FAIL_OPEN, {6, kUdp})});
  const uint64_t before = runner().RuleHits(runner().generation(), 0);
  EXPECT_EQ(Early(SynTo(kDropped)), Drops(TPX_R_RULE_DROP));
  EXPECT_EQ(Early(To(kDropped)), Drops(TPX_R_RULE_DROP));
  EXPECT_EQ(Early(SynTo(kProxied)), Passes());
  EXPECT_EQ(runner().RuleHits(runner().generation(), 0), before + 2);
}

TEST_P(Xdp, LeavesEveryOtherActionToTc) {
  for (uint16_t port : {kProxied, kProxiedClosed, kProxiedReset, kPreserved, kRejected, kBypassed}) {
    EXPECT_EQ(Early(SynTo(port)), Passes()) << port;
    EXPECT_EQ(Early(To(port)), Passes()) << port;
  }
  for (uint16_t port : {kPaired, kRedirected}) EXPECT_EQ(Early(To(port)), Passes()) << port;
  runner().StartWorkers(0);
  EXPECT_EQ(Early(SynTo(kProxiedClosed)), Passes()) << "that no worker is alive is tc's to say";
}

TEST_P(Xdp, NothingIsDroppedWithoutAPolicy) {
  runner().Reset();
  EXPECT_EQ(Early(SynTo(kDropped)), Passes());
  EXPECT_EQ(Early(To(kDropped)), Passes());
}

TEST_P(Xdp, OfTcpOnlyAPureSynIsJudged) {
  auto segment = [this] { return FromClient().Tcp(kClientPort, kDropped); };
  EXPECT_EQ(Early(segment().Syn()), Drops(TPX_R_RULE_DROP));
  for (const Packet& packet : {segment().Ack(), segment().Syn().Ack(), segment().Syn().Fin(),
                               segment().Syn().Rst(), segment().Rst(), segment()}) {
    EXPECT_EQ(Early(packet), Passes());
  }
}

TEST_P(Xdp, ASynOfATupleThatASocketHasIsTcs) {
  Connection connection{{Address(f().client), 0}, {Address(f().server), kDropped}};
  const Packet again = FromClient().Tcp(connection.client().port, kDropped).Syn();
  EXPECT_EQ(Early(again), Passes());
  EXPECT_EQ(Lan(again), Leaves(TPX_R_ESTABLISHED));
  connection.CloseServerFirst();
  EXPECT_EQ(Early(again), Passes()) << "TIME_WAIT";
  EXPECT_EQ(Early(SynTo(kDropped)), Drops(TPX_R_RULE_DROP));
}

TEST_P(Xdp, UdpFlowsThatAreKnownGoOn) {
  EXPECT_EQ(Lan(To(kProxied)), Leaves(TPX_R_RULE_PROXY));
  runner().Publish(PolicyOf({RuleFor({}, TPX_ACTION_DROP, TPX_FAIL_OPEN, {kUdp})}));
  EXPECT_EQ(Early(To(kProxied)), Passes());
  EXPECT_EQ(Early(To(kProxied, kClientPort + 1)), Drops(TPX_R_RULE_DROP));
  const Packet answer = Packet().Ip(f().server, f().client).Udp(kProxied, kClientPort).Payload(8);
  EXPECT_EQ(Early(answer), Passes()) << "between two LANs answers come in here";
  runner().AgeFlow(Flow(kProxied), 200);
  EXPECT_EQ(Early(To(kProxied)), Drops(TPX_R_RULE_DROP));
  EXPECT_EQ(Early(answer), Drops(TPX_R_RULE_DROP));
}

TEST_P(Xdp, UdpFlowsThatGoOnStayKnown) {
  runner().control().udp_flow_s = 1;
  for (int i = 0; i < 5; ++i) {
    const tpx_reason reason = i == 0 ? TPX_R_RULE_PROXY : TPX_R_ESTABLISHED;
    EXPECT_EQ(Lan(To(kProxied)), Leaves(reason)) << i;
    if (i < 4) std::this_thread::sleep_for(std::chrono::milliseconds(700));
  }
  runner().Publish(PolicyOf({RuleFor({}, TPX_ACTION_DROP, TPX_FAIL_OPEN, {kUdp})}));
  EXPECT_EQ(Early(To(kProxied)), Passes());
  EXPECT_EQ(Early(To(kProxied, kClientPort + 1)), Drops(TPX_R_RULE_DROP));
}

TEST_P(Xdp, TheGatewayAndSpecialAddressesAreOutOfItsReach) {
  Publish({RuleFor({}, TPX_ACTION_DROP, TPX_FAIL_OPEN, {})});
  for (const char* to : {f().gateway, f().broadcast, f().loopback, f().unspecified, f().multicast,
                         f().link_local, f().metadata}) {
    EXPECT_EQ(Early(Packet().Ip(f().client, to).Tcp(kClientPort, 9).Syn()), Passes()) << to;
    const Packet datagram = Packet().Ip(f().client, to).Udp(kClientPort, 9);
    EXPECT_EQ(Early(datagram), Notes(static_cast<tpx_reason>(Lan(datagram).reason))) << to;
  }
  EXPECT_EQ(Early(SynTo(9)), Drops(TPX_R_RULE_DROP));
}

TEST_P(Xdp, ImpossibleSendersAreTcsToName) {
  for (const char* from : {f().gateway, f().server, f().loopback, f().multicast}) {
    EXPECT_EQ(Early(Packet().Ip(from, f().server).Tcp(kClientPort, kDropped).Syn()), Passes()) << from;
    EXPECT_EQ(Early(Packet().Ip(from, f().server).Udp(kClientPort, kDropped)), Passes()) << from;
  }
}

TEST_P(Xdp, OtherProtocols) {
  EXPECT_EQ(Early(FromClient().Protocol(47).Payload(8)), Notes(TPX_R_OTHER_PROTOCOL));
  EXPECT_EQ(Early(FromClient().Icmp(8, 128)), Notes(TPX_R_OTHER_PROTOCOL));
  Publish({RuleFor({}, TPX_ACTION_DROP, TPX_FAIL_OPEN, {47, 1, 58})});
  EXPECT_EQ(Early(FromClient().Protocol(47).Payload(8)), Drops(TPX_R_RULE_DROP));
  EXPECT_EQ(Early(FromClient().Icmp(8, 128)), Drops(TPX_R_RULE_DROP));
  EXPECT_EQ(Early(FromClient().Protocol(132).Payload(8)), Notes(TPX_R_RULE_BYPASS)) << "by default";
  EXPECT_EQ(Early(FromClient().Icmp(3, 1).Quote(Packet().Ip(f().server, f().client).Udp(kDropped, 1))),
            Passes())
      << "an ICMP error may be about a flow";
}

TEST_P(Xdp, FragmentsAndHeadersOutOfReachAreTcs) {
  EXPECT_EQ(Early(FromClient().Fragment(0, true).Udp(kClientPort, kDropped).Payload(40)), Passes());
  EXPECT_EQ(Early(FromClient().Fragment(0, true).Tcp(kClientPort, kDropped).Syn().Payload(40)), Passes());
  EXPECT_EQ(Early(FromClient().Fragment(64, false).Protocol(kUdp).Payload(24)), Passes());
  EXPECT_EQ(Early(FromClient().Fragment(0, true).Tcp(1, kDropped).Syn().TransportBytes(8)), Passes());
  if (v4()) return;
  Packet endless = FromClient();
  for (int i = 0; i < 9; ++i) endless.Extension(60);
  EXPECT_EQ(Early(endless.Tcp(kClientPort, kDropped).Syn()), Passes());
}

TEST_P(Xdp, DamagedPacketsAreTcs) {
  EXPECT_EQ(Early(SynTo(kDropped).Cut(30)), Passes());
  EXPECT_EQ(Early(SynTo(kDropped).Version(5)), Passes());
  EXPECT_EQ(Early(SynTo(kDropped).DataOffset(4)), Passes());
  EXPECT_EQ(Early(SynTo(kDropped).TotalLength(2000)), Passes());
  EXPECT_EQ(Early(To(kDropped).UdpLength(7)), Passes());
  EXPECT_EQ(Early(Packet().EtherType(0x0806).Payload(46)), Passes()) << "ARP";
  if (v4()) {
    EXPECT_EQ(Early(SynTo(kDropped).Option({131, 7, 4, 192, 0, 2, 9})), Passes()) << "source route";
  }
}

TEST_P(Xdp, HeadersInFrontOfTheTransportAreFollowed) {
  if (v4()) {
    EXPECT_EQ(Early(SynTo(kDropped).Option({7, 7, 4, 0, 0, 0, 0})), Drops(TPX_R_RULE_DROP));
    EXPECT_EQ(Early(SynTo(kDropped).Option(Bytes(40, 1))), Drops(TPX_R_RULE_DROP));
  } else {
    EXPECT_EQ(Early(SynTo(kDropped).Extension(0).Extension(60, 24)), Drops(TPX_R_RULE_DROP));
  }
}

TEST_P(Xdp, AFrameInSeveralFragmentsOfMemory) {
  EXPECT_EQ(Early(To(kDropped).Payload(9000)), Drops(TPX_R_RULE_DROP));
  EXPECT_EQ(Early(To(kBypassed).Payload(9000)), Passes());
}

TEST_P(Xdp, ATagInTheFrameIsTcs) {
  for (uint16_t tci : {0, 7, 0x6000}) EXPECT_EQ(Early(SynTo(kDropped).Vlan(tci)), Passes()) << tci;
  EXPECT_EQ(Early(SynTo(kDropped).Vlan(7, 0x88a8)), Passes());
}

TEST_P(Xdp, MacInterfaceAndDscpAreKnownHere) {
  auto frame = [this](const policy::MacAddress& mac, uint8_t dscp) {
    Bytes bytes = SynTo(kBypassed).Build();
    std::copy(mac.begin(), mac.end(), bytes.begin() + 6);
    uint8_t* ip = bytes.data() + kEthernetBytes;
    if (v4()) {
      ip[1] = static_cast<uint8_t>(dscp << 2);
    } else {
      ip[0] = static_cast<uint8_t>(0x60 | dscp >> 2);
      ip[1] = static_cast<uint8_t>((dscp & 3) << 6);
    }
    return bytes;
  };
  constexpr policy::MacAddress kOther = {0x00, 0x53, 0xff, 0x12, 0x34, 0x57};
  Publish({{.macs = {kMac}, .action = TPX_ACTION_DROP}});
  EXPECT_EQ(Early(frame(kMac, 0)), Drops(TPX_R_RULE_DROP));
  EXPECT_EQ(Early(frame(kOther, 0)), Passes());
  Publish({{.dscps = {46}, .action = TPX_ACTION_DROP}});
  EXPECT_EQ(Early(frame(kMac, 46)), Drops(TPX_R_RULE_DROP));
  EXPECT_EQ(Early(frame(kMac, 45)), Passes());
  Publish({{.interfaces = {"lan1"}, .action = TPX_ACTION_DROP}});
  EXPECT_EQ(Early(frame(kMac, 0)), Drops(TPX_R_RULE_DROP));
  Publish({{.interfaces = {"lan2"}, .action = TPX_ACTION_DROP}});
  EXPECT_EQ(Early(frame(kMac, 0)), Passes());
}

TEST_P(Xdp, WhereAnyRuleAsksForAMarkAllIsTcs) {
  EXPECT_EQ(Early(SynTo(kDropped)), Drops(TPX_R_RULE_DROP));
  Publish({{.dports = {{9, 9}}, .marks = {{1, 1}}, .action = TPX_ACTION_BYPASS}});
  EXPECT_EQ(Early(SynTo(kDropped)), Passes());
  EXPECT_EQ(Lan(SynTo(kDropped)), Leaves(TPX_R_RULE_DROP));
}

TEST_P(Xdp, ASourceInItsPenaltyIsDroppedAndTakesNothing) {
  for (uint16_t port : {kPenalty, kPenaltyClosed, kPenaltyBypass}) {
    EXPECT_EQ(Early(SynTo(port)), Passes()) << port;
    EXPECT_TRUE(runner().Sources().empty()) << "buckets are tc's";
    EXPECT_EQ(EffectOf(Lan(SynTo(port)).reason), port == kPenaltyBypass ? TPX_EFFECT_PASS : TPX_EFFECT_STEER);
    EXPECT_EQ(Early(SynTo(port)), Passes()) << "nor is an empty bucket a penalty";
    EXPECT_EQ(Lan(SynTo(port)), Leaves(TPX_R_RATE_LIMITED));
    EXPECT_EQ(Early(SynTo(port)), Drops(TPX_R_RATE_PENALTY)) << port;
    EXPECT_EQ(Early(To(port)), Drops(TPX_R_RATE_PENALTY)) << port;
    EXPECT_EQ(Early(Packet().Ip(f().server, f().client).Tcp(1, port).Syn()), Passes()) << "another source";
    runner().AgeSources(61'000);
    EXPECT_EQ(Early(SynTo(port)), Passes()) << port;
    runner().Reset();
    SetUp();
  }
}

TEST_P(Xdp, APenaltyOfARuleThatNobodyServesIsNotTheReason) {
  Lan(SynTo(kPenaltyClosed));
  Lan(SynTo(kPenaltyClosed));
  EXPECT_EQ(Early(SynTo(kPenaltyClosed)), Drops(TPX_R_RATE_PENALTY));
  runner().SetState(0, TPX_WORKER_DRAINING);
  runner().SetState(1, TPX_WORKER_DRAINING);
  EXPECT_EQ(Early(SynTo(kPenaltyClosed)), Passes());
  EXPECT_EQ(Lan(SynTo(kPenaltyClosed)), Leaves(TPX_R_BUSY_CLOSED));
}

TEST_P(Xdp, APenaltyDoesNotConcernWhatABorrowedPortReceives) {
  Lan(SynTo(kPenaltyBypass));
  Lan(SynTo(kPenaltyBypass));
  EXPECT_EQ(Early(To(kPenaltyBypass)), Drops(TPX_R_RATE_PENALTY));
  UniqueFd upstream = DatagramSocket(Server(kPenaltyBypass), kOwnMark);
  EXPECT_EQ(Early(To(kPenaltyBypass)), Passes());
  EXPECT_EQ(Lan(To(kPenaltyBypass)), Leaves(TPX_R_ESTABLISHED));
}

TEST_P(Xdp, TellsTcOfFlowsThatGoAround) {
  EXPECT_EQ(Early(To(kBypassed)), Passes()) << "to be remembered, by tc";
  EXPECT_EQ(Lan(To(kBypassed)), Leaves(TPX_R_RULE_BYPASS));
  EXPECT_EQ(EarlyInTheSameSecond(kBypassed), Notes(TPX_R_DIRECT));
  EXPECT_EQ(runner().noted_counter(), TPX_NO_RULE);
  EXPECT_EQ(Lan(To(kProxied)), Leaves(TPX_R_RULE_PROXY));
  EXPECT_EQ(EarlyInTheSameSecond(kProxied), Passes());
  runner().AgeFlow(Flow(kBypassed), 2);
  EXPECT_EQ(Early(To(kBypassed)), Passes()) << "the first one of a second is tc's to write down";
  runner().AgeFlow(Flow(kBypassed), 200);
  EXPECT_EQ(Early(To(kBypassed)), Passes());
}

TEST_P(Xdp, ADatagramThatMayBeFragmentedUnlikeTheOneBeforeIsTcs) {
  if (!v4()) return;  // IPv6 routers do not fragment
  EXPECT_EQ(Lan(To(kBypassed)), Leaves(TPX_R_RULE_BYPASS));
  EXPECT_EQ(EarlyInTheSameSecond(kBypassed), Notes(TPX_R_DIRECT));
  Packet other = To(kBypassed);
  EXPECT_EQ(Early(other.DontFragment()), Passes());
}

TEST_P(Xdp, WhatIsForwardedOrTranslatedIsTcs) {
  policy::Rule around = RuleFor({kBypassed}, TPX_ACTION_BYPASS, TPX_FAIL_OPEN, {kUdp});
  around.forward = TPX_FORWARD_FIB;
  Publish({around});
  Lan(To(kBypassed));
  EXPECT_EQ(EarlyInTheSameSecond(kBypassed), Passes());
  runner().ForgetFlows();
  Publish();
  Lan(To(kBypassed));
  EXPECT_EQ(EarlyInTheSameSecond(kBypassed), Notes(TPX_R_DIRECT));
  runner().control().translates = 1;
  EXPECT_EQ(EarlyInTheSameSecond(kBypassed), Passes());
  EXPECT_EQ(Early(Packet().Ip(f().client, f().gateway).Udp(kClientPort, 9)), Passes());
  EXPECT_EQ(Early(FromClient().Icmp(8, 128)), Notes(TPX_R_OTHER_PROTOCOL));
}

TEST_P(Xdp, TellsTcOfOtherProtocolsAndTheirRule) {
  constexpr uint8_t kGre = 47;
  policy::Rule drops{.protocols = {6, kUdp}, .action = TPX_ACTION_DROP};
  runner().Publish(PolicyOf({drops}));
  EXPECT_EQ(Early(FromClient().Protocol(kGre).Payload(8)), Notes(TPX_R_OTHER_PROTOCOL));
  drops.protocols = {132};
  policy::Rule around{.protocols = {kGre}, .action = TPX_ACTION_BYPASS};
  runner().Publish(PolicyOf({drops, around}));
  const uint64_t before = runner().RuleHits(runner().generation(), 1);
  EXPECT_EQ(Early(FromClient().Protocol(kGre).Payload(8)), Notes(TPX_R_RULE_BYPASS));
  EXPECT_EQ(runner().noted_counter(), runner().CounterOf(runner().generation(), 1));
  EXPECT_EQ(runner().RuleHits(runner().generation(), 1), before) << "counted by tc";
  EXPECT_EQ(Early(FromClient().Protocol(132).Payload(8)), Drops(TPX_R_RULE_DROP));
  policy::Rule logged = around, refused = around, of_sender = around;
  logged.log = TPX_LOG_SAMPLE;
  refused.action = TPX_ACTION_REJECT;
  of_sender.macs = {kMac};
  for (const policy::Rule& rule : {logged, refused, of_sender}) {
    runner().Publish(PolicyOf({drops, rule}));
    EXPECT_EQ(Early(FromClient().Protocol(kGre).Payload(8)), Passes());
  }
}

TEST_P(Xdp, LeavesNoNoteWhereTcCouldNotReadIt) {
  Packet far = To(kBypassed);
  v4() ? far.Option({7, 7, 4, 0, 0, 0, 0}) : far.Extension(60);
  EXPECT_EQ(Lan(far), Leaves(TPX_R_RULE_BYPASS));
  EXPECT_EQ(EarlyInTheSameSecond(kBypassed), Notes(TPX_R_DIRECT));
  EXPECT_EQ(Early(far), Passes());
}

TEST_P(Xdp, LeavesNoNoteInADispatcher) {
  EXPECT_EQ(Lan(To(kBypassed)), Leaves(TPX_R_RULE_BYPASS));
  EXPECT_EQ(EarlyInTheSameSecond(kBypassed), Notes(TPX_R_DIRECT));
  EXPECT_EQ(runner().RunEarly(To(kBypassed).Build(), Early::kInDispatcher), Passes());
  EXPECT_EQ(runner().RunEarly(To(kDropped).Build(), Early::kInDispatcher), Drops(TPX_R_RULE_DROP));
}

}  // namespace
}  // namespace tpx::test
