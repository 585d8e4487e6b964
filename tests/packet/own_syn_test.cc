// SPDX-License-Identifier: Apache-2.0
// Our own connection that another gateway sends back, told from a client's.
#include <netinet/in.h>
#include <sys/socket.h>

#include <optional>

#include "support/check.h"
#include "support/connection.h"
#include "support/packet_fixture.h"

namespace tpx::test {
namespace {

constexpr uint8_t kSentWith = 40;

// The sockets of a session whose client is preserved: the accepted one has the server's
// address, and the upstream one the client's.
class OwnSyn : public FamilyTest {
 protected:
  void SetUp() override {
    FamilyTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    connection_.emplace(Endpoint{Address(f().client), 0}, Endpoint{Address(f().server), kPreserved});
    SetMark(kOwnMark);
    SetHopLimit(kSentWith);
  }
  void TearDown() override {
    if (connection_.has_value()) connection_->Abort();
  }

  void SetMark(uint32_t mark) {
    TPX_PCHECK(setsockopt(connection_->client_fd(), SOL_SOCKET, SO_MARK, &mark, sizeof(mark)) == 0);
  }
  void SetHopLimit(int hops) {
    TPX_PCHECK(setsockopt(connection_->client_fd(), v4() ? SOL_IP : SOL_IPV6,
                          v4() ? IP_TTL : IPV6_UNICAST_HOPS, &hops, sizeof(hops)) == 0);
  }
  Packet FromClientOf(uint8_t hops) const {
    return FromClient().Tcp(connection_->client().port, kPreserved).HopLimit(hops);
  }
  Packet Syn(uint8_t hops) const { return FromClientOf(hops).Syn(); }

  std::optional<Connection> connection_;
};
TPX_BOTH_FAMILIES(OwnSyn);

TEST_P(OwnSyn, S2_IsAnsweredWithAReset) {
  for (uint8_t hops : {uint8_t{1}, uint8_t{2}, uint8_t{kSentWith - 1}}) {
    EXPECT_EQ(Lan(Syn(hops)), Leaves(TPX_R_OWN_SYN_RETURNED)) << int{hops};
    EXPECT_TRUE(ChecksumsHold(runner().left()));
    EXPECT_EQ(Wan(Syn(hops)), Leaves(TPX_R_OWN_SYN_RETURNED)) << int{hops};
    EXPECT_TRUE(ChecksumsHold(runner().left()));
  }
}

TEST_P(OwnSyn, S2_WithoutPolicyOrWorkers) {
  runner().Reset();
  EXPECT_EQ(Lan(Syn(kSentWith - 1)), Leaves(TPX_R_OWN_SYN_RETURNED));
}

TEST_P(OwnSyn, S2_AClientThatUsesItsPortAgainHasMoreHopsLeft) {
  for (uint8_t hops : {uint8_t{kSentWith}, uint8_t{kSentWith + 1}, uint8_t{64}, uint8_t{255}}) {
    EXPECT_EQ(Lan(Syn(hops)), Leaves(TPX_R_ESTABLISHED)) << int{hops};
    EXPECT_EQ(Wan(Syn(hops)), Leaves(TPX_R_ESTABLISHED)) << int{hops};
  }
}

TEST_P(OwnSyn, S2_OnlyAPureSynIsOne) {
  EXPECT_EQ(Lan(FromClientOf(2).Ack()), Leaves(TPX_R_ESTABLISHED));
  EXPECT_EQ(Lan(FromClientOf(2).Rst()), Leaves(TPX_R_ESTABLISHED));
  for (Hook hook : {Hook::kLan, Hook::kWan}) {
    EXPECT_EQ(runner().Run(hook, Syn(2).Ack().Build()), Leaves(TPX_R_ESTABLISHED));
    EXPECT_EQ(runner().Run(hook, Syn(2).Fin().Build()), Leaves(TPX_R_ESTABLISHED));
    EXPECT_EQ(runner().Run(hook, Syn(2).Rst().Build()), Leaves(TPX_R_ESTABLISHED));
  }
}

TEST_P(OwnSyn, S2_WithoutAHopLimitOfItsOwnNothingIsKnown) {
  SetHopLimit(-1);
  EXPECT_EQ(Lan(Syn(2)), Leaves(TPX_R_ESTABLISHED));
  EXPECT_EQ(Wan(Syn(2)), Leaves(TPX_R_ESTABLISHED));
}

TEST_P(OwnSyn, S2_TheOtherEndHasToBeAnUpstreamSocket) {
  for (uint32_t mark : {uint32_t{0}, kSteerMark}) {
    SetMark(mark);
    EXPECT_EQ(Lan(Syn(2)), Leaves(TPX_R_ESTABLISHED)) << "somebody else's: " << mark;
  }
  SetMark(kOwnMark | 1);
  EXPECT_EQ(Lan(Syn(2)), Leaves(TPX_R_OWN_SYN_RETURNED)) << "only our bits count";
}

TEST_P(OwnSyn, S2_AServerThatHasAnsweredIsNoLoop) {
  TPX_PCHECK(send(connection_->server_fd(), "x", 1, 0) == 1);
  char byte;
  TPX_PCHECK(recv(connection_->client_fd(), &byte, 1, 0) == 1);
  EXPECT_EQ(Lan(Syn(2)), Leaves(TPX_R_ESTABLISHED));
}

TEST_P(OwnSyn, S2_WhatNoSocketOwnsIsJudged) {
  EXPECT_EQ(Lan(FromClient().Tcp(kClientPort, kPreserved).Syn().HopLimit(2)), Leaves(TPX_R_RULE_PROXY));
  EXPECT_EQ(Wan(FromClient().Tcp(kClientPort, kPreserved).Syn().HopLimit(2)), Leaves(TPX_R_WAN));
  connection_->CloseServerFirst();
  EXPECT_EQ(Lan(Syn(2)), Leaves(TPX_R_RULE_PROXY)) << "of one side only TIME_WAIT is left";
  connection_.reset();
}

}  // namespace
}  // namespace tpx::test
