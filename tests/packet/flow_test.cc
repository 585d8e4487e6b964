// SPDX-License-Identifier: Apache-2.0
// Packets behind the first one: the socket table decides.
#include "support/connection.h"
#include "support/packet_fixture.h"

namespace tpx::test {
namespace {

class Flow : public FamilyTest {
 protected:
  Connection Connect(uint16_t port) const { return {{Address(f().client), 0}, {Address(f().server), port}}; }
  Packet FromClientOf(const Connection& c, uint16_t port) const {
    return FromClient().Tcp(c.client().port, port);
  }
  Packet FromServerOf(const Connection& c, uint16_t port) const {
    return Packet().Ip(f().server, f().client).Tcp(port, c.client().port);
  }
};
TPX_BOTH_FAMILIES(Flow);

TEST_P(Flow, PacketsOfASocketAreSteeredWhateverThePolicySays) {
  for (uint16_t port : {kProxied, kDropped, kBypassed}) {
    Connection connection = Connect(port);
    EXPECT_EQ(Lan(FromClientOf(connection, port).Ack()), Leaves(TPX_R_ESTABLISHED));
    EXPECT_EQ(Lan(FromClientOf(connection, port).Ack().Fin()), Leaves(TPX_R_ESTABLISHED));
    EXPECT_EQ(Lan(FromClientOf(connection, port).Rst()), Leaves(TPX_R_ESTABLISHED));
    EXPECT_EQ(Lan(FromClientOf(connection, port).Flags(0)), Leaves(TPX_R_ESTABLISHED));
    EXPECT_EQ(Lan(FromClientOf(connection, port).Syn()), Leaves(TPX_R_ESTABLISHED)) << "a SYN sent again";
    connection.Abort();
    EXPECT_EQ(Lan(FromClientOf(connection, port).Ack()), Leaves(TPX_R_DIRECT));
  }
}

TEST_P(Flow, PacketsOfASocketAreSteeredWithoutPolicyOrWorkers) {
  Connection connection = Connect(kProxied);
  runner().Reset();
  EXPECT_EQ(Lan(FromClientOf(connection, kProxied).Ack()), Leaves(TPX_R_ESTABLISHED));
  connection.Abort();
}

TEST_P(Flow, NeighboursOfASocketAreNotSteered) {
  Connection connection = Connect(kProxied);
  auto other_port = static_cast<uint16_t>(connection.client().port ^ 1);
  EXPECT_EQ(Lan(FromClient().Tcp(other_port, kProxied).Ack()), Leaves(TPX_R_DIRECT));
  EXPECT_EQ(Lan(FromClient().Tcp(connection.client().port, kProxied + 1).Ack()), Leaves(TPX_R_DIRECT));
  EXPECT_EQ(Lan(Packet().Ip(f().client, f().other_server).Tcp(connection.client().port, kProxied).Ack()),
            Leaves(TPX_R_DIRECT));
  connection.Abort();
}

TEST_P(Flow, AListenerOwnsNoFlow) {
  EXPECT_EQ(Lan(FromClient().Tcp(kClientPort, runner().listen_port()).Ack()), Leaves(TPX_R_DIRECT));
  EXPECT_EQ(Wan(FromClient().Tcp(kClientPort, runner().listen_port()).Ack()), Leaves(TPX_R_WAN));
}

TEST_P(Flow, AnswersToAPreservedClientAreSteeredFromTheWan) {
  Connection connection = Connect(kPreserved);
  EXPECT_EQ(Wan(FromServerOf(connection, kPreserved).Ack()), Leaves(TPX_R_ESTABLISHED));
  EXPECT_EQ(Wan(FromServerOf(connection, kPreserved).Syn().Ack()), Leaves(TPX_R_ESTABLISHED));
  EXPECT_EQ(Wan(FromServerOf(connection, kPreserved + 1).Ack()), Leaves(TPX_R_WAN));
  connection.Abort();
  EXPECT_EQ(Wan(FromServerOf(connection, kPreserved).Ack()), Leaves(TPX_R_WAN));
}

TEST_P(Flow, LatePacketsReachASocketInTimeWait) {
  Connection connection = Connect(kProxied);
  connection.CloseServerFirst();
  EXPECT_EQ(Lan(FromClientOf(connection, kProxied).Ack().Fin()), Leaves(TPX_R_ESTABLISHED));
}

TEST_P(Flow, ADirectConnectionMayReuseATupleInTimeWait) {
  Connection connection = Connect(kBypassed);
  connection.CloseServerFirst();
  tpx_flow flow = FlowTo(kBypassed, connection.client().port);
  EXPECT_EQ(Lan(FromClientOf(connection, kBypassed).Syn()), Leaves(TPX_R_RULE_BYPASS));
  EXPECT_TRUE(runner().InFlows(flow));
  EXPECT_EQ(Lan(FromClientOf(connection, kBypassed).Ack()), Leaves(TPX_R_DIRECT));
  EXPECT_EQ(Lan(FromClientOf(connection, kBypassed).Ack().Fin()), Leaves(TPX_R_DIRECT));
}

TEST_P(Flow, AProxiedConnectionMayReuseATupleInTimeWait) {
  Connection connection = Connect(kBypassed);
  connection.CloseServerFirst();
  Lan(FromClientOf(connection, kBypassed).Syn());
  runner().Publish(PolicyOf({RuleFor({kBypassed}, TPX_ACTION_PROXY)}));
  EXPECT_EQ(Lan(FromClientOf(connection, kBypassed).Syn()), Leaves(TPX_R_RULE_PROXY));
  EXPECT_FALSE(runner().InFlows(FlowTo(kBypassed, connection.client().port)));
  EXPECT_EQ(Lan(FromClientOf(connection, kBypassed).Ack()), Leaves(TPX_R_ESTABLISHED));
}

TEST_P(Flow, ADroppedSynLeavesTimeWaitAsItIs) {
  Connection connection = Connect(kDropped);
  connection.CloseServerFirst();
  EXPECT_EQ(Lan(FromClientOf(connection, kDropped).Syn()), Leaves(TPX_R_RULE_DROP));
  EXPECT_EQ(Lan(FromClientOf(connection, kDropped).Syn().Fin()), Leaves(TPX_R_BAD_FLAGS));
  EXPECT_FALSE(runner().InFlows(FlowTo(kDropped, connection.client().port)));
  EXPECT_EQ(Lan(FromClientOf(connection, kDropped).Ack()), Leaves(TPX_R_ESTABLISHED));
}

TEST_P(Flow, AnOrdinarySynLeavesNoTrace) {
  Lan(SynTo(kBypassed));
  EXPECT_FALSE(runner().InFlows(FlowTo(kBypassed)));
}

TEST_P(Flow, TheAnswerOfADirectConnectionIsNotCaughtByTimeWaitOnTheWanSide) {
  // The proxy had a connection with the client's own address, which it closed
  // first; now client and server use the same tuple without the proxy.
  Connection connection = Connect(kBypassed);
  connection.CloseClientFirst();
  EXPECT_EQ(Wan(FromServerOf(connection, kBypassed).Ack()), Leaves(TPX_R_ESTABLISHED));
  EXPECT_EQ(Wan(FromServerOf(connection, kBypassed).Syn().Ack()), Leaves(TPX_R_WAN));
  EXPECT_EQ(Wan(FromServerOf(connection, kBypassed).Ack()), Leaves(TPX_R_WAN));
}

}  // namespace
}  // namespace tpx::test
