// SPDX-License-Identifier: Apache-2.0
// Only a pure SYN starts a flow.
#include "support/packet_fixture.h"

namespace tpx::test {
namespace {

constexpr uint8_t kFin = 1, kSyn = 2, kRst = 4, kAck = 16;

class TcpFlags : public FamilyTest {
 protected:
  Outcome Send(uint16_t port, unsigned flags) const {
    return Lan(FromClient().Tcp(kClientPort, port).Flags(static_cast<uint8_t>(flags)));
  }
};
TPX_BOTH_FAMILIES(TcpFlags);

TEST_P(TcpFlags, P11_EveryCombinationHasItsPlace) {
  for (unsigned flags = 0; flags < 256; ++flags) {
    bool opens = (flags & kSyn) != 0 && (flags & kAck) == 0;
    bool strange = (flags & (kFin | kRst)) != 0;
    EXPECT_EQ(Send(kProxied, flags), Leaves(!opens    ? TPX_R_DIRECT
                                            : strange ? TPX_R_BAD_FLAGS
                                                      : TPX_R_RULE_PROXY))
        << flags;
    EXPECT_EQ(Send(kDropped, flags), Leaves(!opens    ? TPX_R_DIRECT
                                            : strange ? TPX_R_BAD_FLAGS
                                                      : TPX_R_RULE_DROP))
        << flags;
    EXPECT_EQ(Send(kBypassed, flags), Leaves(opens ? TPX_R_RULE_BYPASS : TPX_R_DIRECT)) << flags;
  }
}

TEST_P(TcpFlags, P11_SynAckFromTheClientSideStartsNothing) {
  EXPECT_EQ(Send(kProxied, kSyn | kAck), Leaves(TPX_R_DIRECT));
}

TEST_P(TcpFlags, FromTheWanNothingStartsAFlow) {
  for (unsigned flags = 0; flags < 256; ++flags) {
    EXPECT_EQ(Wan(FromClient().Tcp(kClientPort, kProxied).Flags(static_cast<uint8_t>(flags))),
              Leaves(TPX_R_WAN));
  }
}

TEST_P(TcpFlags, EachActionMeetsTheFirstPacket) {
  EXPECT_EQ(Lan(SynTo(kProxied)), Leaves(TPX_R_RULE_PROXY));
  EXPECT_EQ(Lan(SynTo(kPreserved)), Leaves(TPX_R_RULE_PROXY));
  EXPECT_EQ(Lan(SynTo(kDropped)), Leaves(TPX_R_RULE_DROP));
  EXPECT_EQ(Lan(SynTo(kRejected)), Leaves(TPX_R_RULE_REJECT));
  EXPECT_EQ(Lan(SynTo(kBypassed)), Leaves(TPX_R_RULE_BYPASS));
}

TEST_P(TcpFlags, PortsZeroAndMaximumAreOrdinary) {
  policy::Rule ends = RuleFor({0, 65535}, TPX_ACTION_DROP);
  ends.sports = {{0, 0}, {65535, 65535}};
  runner().Publish(PolicyOf({ends}));
  for (uint16_t sport : {uint16_t{0}, uint16_t{65535}}) {
    for (uint16_t dport : {uint16_t{0}, uint16_t{65535}}) {
      EXPECT_EQ(Lan(FromClient().Tcp(sport, dport).Syn()), Leaves(TPX_R_RULE_DROP));
      EXPECT_EQ(Lan(FromClient().Tcp(sport, dport ^ 1).Syn()), Leaves(TPX_R_RULE_BYPASS));
    }
  }
}

}  // namespace
}  // namespace tpx::test
