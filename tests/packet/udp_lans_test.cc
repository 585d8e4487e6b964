// SPDX-License-Identifier: Apache-2.0
// Between two LANs: what servers answer comes in where flows begin.
#include <tuple>

#include "support/connection.h"
#include "support/packet_fixture.h"

namespace tpx::test {
namespace {

class UdpLans : public DatagramTest {
 protected:
  // Of the client, by its own device.
  Outcome Ask(uint16_t port) const {
    runner().ComeInBy(ProgRunner::kFirstDevice);
    return Lan(To(port));
  }
  Packet FromServer(uint16_t sport, uint16_t to = kClientPort) const {
    return Packet().Ip(f().server, f().client).Udp(sport, to).Payload(32);
  }
  Outcome Answer(uint16_t sport, uint16_t to = kClientPort,
                 uint32_t device = ProgRunner::kOtherDevice) const {
    runner().ComeInBy(device);
    return Lan(FromServer(sport, to));
  }
  tpx_flow AnswerFlow(uint16_t sport) const {
    return FlowOf(Address(f().server), sport, Address(f().client), kClientPort, kUdp);
  }
  // What is judged by its own direction: datagrams to the client's port.
  void SayOfServers(tpx_action action, tpx_source_mode source = TPX_SOURCE_MASQUERADE) const {
    policy::Policy policy = UdpPolicy();
    policy::Rule rule = RuleFor({kClientPort}, action, TPX_FAIL_OPEN, {kUdp});
    rule.source = source;
    for (policy::Rule& other : policy.rules) {
      // As where preserve is the default of all rules; a redirect masquerades all the same.
      if (other.action == TPX_ACTION_REDIRECT) other.source = TPX_SOURCE_PRESERVE;
    }
    policy.rules.insert(policy.rules.begin(), rule);
    runner().Publish(policy);
  }
  UniqueFd Upstream(uint16_t port = kClientPort) const { return DatagramSocket(Client(port), kOwnMark); }
};
TPX_BOTH_FAMILIES(UdpLans);

constexpr tpx_action kActions[] = {TPX_ACTION_BYPASS, TPX_ACTION_PROXY, TPX_ACTION_DROP, TPX_ACTION_REJECT};

TEST_P(UdpLans, AnswersToAPreservedClientAreSteeredWhateverTheRulesSayOfThem) {
  UniqueFd upstream = Upstream();
  for (tpx_action action : kActions) {
    runner().ForgetFlows();
    SayOfServers(action);
    EXPECT_EQ(Ask(kPreserved), Leaves(TPX_R_RULE_PROXY));
    for (int i = 0; i < 3; ++i) {
      EXPECT_EQ(Answer(kPreserved), Leaves(TPX_R_ESTABLISHED)) << action;
      EXPECT_EQ(runner().Lookup(AnswerFlow(kPreserved)), Found(TPX_R_LK_NOT_OURS)) << "past the listeners";
      EXPECT_EQ(Ask(kPreserved), Leaves(TPX_R_ESTABLISHED));
    }
  }
}

TEST_P(UdpLans, AnswersKeepTheirWayWhileTheClientIsSilent) {
  UniqueFd upstream = Upstream();
  SayOfServers(TPX_ACTION_DROP);
  Ask(kPreserved);
  Answer(kPreserved);
  runner().AgeFlow(Flow(kPreserved), 182);
  EXPECT_EQ(Answer(kPreserved), Leaves(TPX_R_ESTABLISHED));
  runner().AgeFlow(AnswerFlow(kPreserved), 182);
  EXPECT_EQ(Answer(kPreserved), Leaves(TPX_R_RULE_DROP)) << "both were silent";
}

TEST_P(UdpLans, WithoutItsSocketAnAnswerGoesDirectUntilTheFlowIsOver) {
  SayOfServers(TPX_ACTION_PROXY);
  UniqueFd upstream = Upstream();
  Ask(kPreserved);
  Answer(kPreserved);
  upstream.Reset();
  EXPECT_EQ(Answer(kPreserved), Leaves(TPX_R_DIRECT));
  EXPECT_EQ(Answer(kPreserved), Leaves(TPX_R_DIRECT));
  upstream = Upstream();
  EXPECT_EQ(Answer(kPreserved), Leaves(TPX_R_ESTABLISHED)) << "the client's session is there again";
  upstream.Reset();
  runner().AgeFlow(Flow(kPreserved), 182);
  EXPECT_EQ(Answer(kPreserved), Leaves(TPX_R_RULE_PROXY)) << "the server is a client itself";
  EXPECT_EQ(Answer(kPreserved), Leaves(TPX_R_ESTABLISHED));
  EXPECT_EQ(runner().Lookup(AnswerFlow(kPreserved)).reason, TPX_R_LK_STEERED);
}

TEST_P(UdpLans, NoAnswersAreExpectedAtTheAddressOfAMasqueradedClient) {
  UniqueFd upstream = Upstream();
  for (tpx_action action : {TPX_ACTION_DROP, TPX_ACTION_PROXY}) {
    SayOfServers(action);
    for (uint16_t port : {uint16_t{kProxied}, uint16_t{kRedirected}}) {
      Ask(port);
      EXPECT_EQ(Answer(port), Leaves(action == TPX_ACTION_DROP ? TPX_R_RULE_DROP : TPX_R_RULE_PROXY));
      EXPECT_EQ(Answer(port), Leaves(action == TPX_ACTION_DROP ? TPX_R_RULE_DROP : TPX_R_ESTABLISHED));
    }
  }
}

TEST_P(UdpLans, S8_NobodyAnswersItself) {
  // In the server's name, by the client's own device: then the rules say what the client's are.
  UniqueFd upstream = Upstream();
  SayOfServers(TPX_ACTION_DROP);
  Ask(kPreserved);
  EXPECT_EQ(Answer(kPreserved, kClientPort, ProgRunner::kFirstDevice), Leaves(TPX_R_RULE_DROP));
  SayOfServers(TPX_ACTION_BYPASS);
  EXPECT_EQ(Answer(kDropped, kClientPort, ProgRunner::kFirstDevice), Leaves(TPX_R_ESTABLISHED))
      << "as itself";
  upstream.Reset();
  EXPECT_EQ(Answer(kRedirected, kClientPort, ProgRunner::kFirstDevice), Leaves(TPX_R_RULE_BYPASS));
  EXPECT_EQ(Ask(kDropped), Leaves(TPX_R_RULE_DROP));
  EXPECT_EQ(Ask(kRedirected), Leaves(TPX_R_RULE_PROXY));
}

TEST_P(UdpLans, S8_ABorrowedPortOfTheServerTakesOnlyWhatTheRulesLeaveAlone) {
  UniqueFd borrowed[] = {
      DatagramSocket(Server(kRedirected), kOwnMark), DatagramSocket(Server(kProxied), kOwnMark),
      DatagramSocket(Server(kDropped), kOwnMark), DatagramSocket(Server(kPreserved), kOwnMark),
      DatagramSocket(Server(kBypassed), kOwnMark)};
  EXPECT_EQ(Ask(kRedirected), Leaves(TPX_R_RULE_PROXY));
  EXPECT_EQ(Ask(kProxied), Leaves(TPX_R_RULE_PROXY));
  EXPECT_EQ(Ask(kDropped), Leaves(TPX_R_RULE_DROP));
  EXPECT_EQ(Ask(kPreserved), Leaves(TPX_R_ESTABLISHED));
  EXPECT_EQ(Ask(kBypassed), Leaves(TPX_R_ESTABLISHED));
}

TEST_P(UdpLans, StrangersReachAPreservedPortUnlessARuleDeniesThem) {
  UniqueFd upstream = Upstream();
  Ask(kPreserved);
  for (auto [action, source, expected] :
       {std::tuple{TPX_ACTION_BYPASS, TPX_SOURCE_MASQUERADE, TPX_R_ESTABLISHED},
        std::tuple{TPX_ACTION_PROXY, TPX_SOURCE_PRESERVE, TPX_R_ESTABLISHED},
        std::tuple{TPX_ACTION_PROXY, TPX_SOURCE_MASQUERADE, TPX_R_RULE_PROXY},
        std::tuple{TPX_ACTION_DROP, TPX_SOURCE_MASQUERADE, TPX_R_RULE_DROP}}) {
    runner().ForgetFlows();
    SayOfServers(action, source);
    EXPECT_EQ(Answer(9), Leaves(expected)) << action;
  }
}

TEST_P(UdpLans, OnlySocketsOfOursTowardsServersOwnAnything) {
  SayOfServers(TPX_ACTION_DROP);
  Ask(kPreserved);
  UniqueFd reply = DatagramSocket(Client(), kSteerMark), wide;
  EXPECT_EQ(Answer(kPreserved), Leaves(TPX_R_DIRECT)) << "answers in the client's name";
  reply = DatagramSocket(Client());
  EXPECT_EQ(Answer(kPreserved), Leaves(TPX_R_DIRECT)) << "somebody else's";
  reply.Reset();
  wide = DatagramSocket({.addr = {}, .port = kClientPort}, kOwnMark);
  EXPECT_EQ(Answer(kPreserved), Leaves(TPX_R_DIRECT)) << "bound to every address";
}

TEST_P(UdpLans, AnAnswerToADirectFlowIsDirectWhateverTheRulesSayOfIt) {
  for (tpx_action action : kActions) {
    runner().ForgetFlows();
    SayOfServers(action);
    EXPECT_EQ(Ask(kBypassed), Leaves(TPX_R_RULE_BYPASS));
    EXPECT_EQ(Answer(kBypassed), Leaves(TPX_R_DIRECT)) << action;
    EXPECT_EQ(Ask(kBypassed), Leaves(TPX_R_DIRECT));
    EXPECT_EQ(Answer(kBypassed), Leaves(TPX_R_DIRECT)) << action;
  }
  runner().ForgetFlows();
  EXPECT_EQ(Answer(kBypassed), Leaves(TPX_R_RULE_REJECT)) << "answers to nothing";
}

TEST_P(UdpLans, E5_AnAnswerToAFlowThatBeganWithoutAProxyIsDirect) {
  SayOfServers(TPX_ACTION_PROXY);
  for (uint32_t worker : {0, 1}) runner().SetState(worker, TPX_WORKER_ABSENT);
  EXPECT_EQ(Ask(kProxied), Leaves(TPX_R_DOWN_OPEN));
  for (uint32_t worker : {0, 1}) runner().SetState(worker, TPX_WORKER_SERVING);
  EXPECT_EQ(Answer(kProxied), Leaves(TPX_R_DIRECT));
  EXPECT_EQ(Ask(kProxied), Leaves(TPX_R_DIRECT));
}

TEST_P(UdpLans, P16_ErrorsAboutAPreservedClientAreSteered) {
  UniqueFd upstream = Upstream();
  Ask(kPreserved);
  Packet error = Packet().Ip(f().server, f().client).Icmp(3, 1).Quote(To(kPreserved));
  for (bool answered : {false, true}) {
    if (answered) {
      EXPECT_EQ(Answer(kPreserved), Leaves(TPX_R_ESTABLISHED));
    }
    runner().ComeInBy(ProgRunner::kOtherDevice);
    EXPECT_EQ(Lan(error), Leaves(TPX_R_ICMP_ERROR));
    EXPECT_EQ(runner().Lookup(AnswerFlow(kPreserved)), Found(TPX_R_LK_NOT_OURS));
  }
  upstream.Reset();
  EXPECT_EQ(Lan(error), Leaves(TPX_R_OTHER_PROTOCOL)) << "the client's own";
}

TEST_P(UdpLans, FragmentedAnswersAreSteered) {
  UniqueFd upstream = Upstream();
  SayOfServers(TPX_ACTION_DROP);
  Ask(kPreserved);
  runner().ComeInBy(ProgRunner::kOtherDevice);
  auto from_server = [&] { return Packet().Ip(f().server, f().client); };
  EXPECT_EQ(Lan(from_server().Fragment(0, true, 1).Udp(kPreserved, kClientPort).Payload(56)),
            Leaves(TPX_R_ESTABLISHED));
  EXPECT_EQ(Lan(from_server().Fragment(64, false, 1).Protocol(kUdp).Payload(64)), Leaves(TPX_R_FRAG_STEERED));
}

}  // namespace
}  // namespace tpx::test
