// SPDX-License-Identifier: Apache-2.0
// The mark: what the programs read from it and which bits they touch.
#include "support/packet_fixture.h"

namespace tpx::test {
namespace {

constexpr uint32_t kOthers = ~kMarkMask;  // every bit that is not ours

class Mark : public FamilyTest {};
TPX_BOTH_FAMILIES(Mark);

TEST_P(Mark, P15_SteeringTouchesOnlyTheBitsOfTheMask) {
  for (uint32_t mark : {0u, 1u, 0x80000000u, 0x1234u, kOthers}) {
    EXPECT_EQ(Lan(SynTo(kProxied), mark), Leaves(TPX_R_RULE_PROXY, mark)) << std::hex << mark;
  }
}

TEST_P(Mark, P15_PassingAndDroppingKeepOthersBits) {
  EXPECT_EQ(Lan(SynTo(kBypassed), kOthers), Leaves(TPX_R_RULE_BYPASS, kOthers));
  EXPECT_EQ(Lan(SynTo(kDropped), kOthers), Leaves(TPX_R_RULE_DROP, kOthers));
  EXPECT_EQ(Wan(SynTo(kDropped), kOthers), Leaves(TPX_R_WAN, kOthers));
}

TEST_P(Mark, OwnTrafficPassesWhateverItIs) {
  for (uint32_t mark : {kOwnMark, kOwnMark | kOthers}) {
    EXPECT_EQ(Lan(SynTo(kDropped), mark), Leaves(TPX_R_OWN_MARK, mark));
    EXPECT_EQ(Wan(SynTo(kProxied), mark), Leaves(TPX_R_OWN_MARK, mark));
    EXPECT_EQ(Lan(Packet().EtherType(0x0806).Payload(46), mark), Leaves(TPX_R_OWN_MARK, mark));
  }
}

TEST_P(Mark, BothBitsAreNotTheOwnMark) {
  EXPECT_EQ(Lan(SynTo(kDropped), kOwnMark | kSteerMark), Leaves(TPX_R_RULE_DROP, kOwnMark | kSteerMark));
}

TEST_P(Mark, SteerMarkFromElsewhereDoesNotSurviveAPass) {
  EXPECT_EQ(Lan(SynTo(kBypassed), kSteerMark | kOthers), Leaves(TPX_R_RULE_BYPASS, kOthers));
  EXPECT_EQ(Wan(SynTo(kBypassed), kSteerMark | 5), Leaves(TPX_R_WAN, 5));
  EXPECT_EQ(Lan(SynTo(kProxied), kSteerMark | 5), Leaves(TPX_R_RULE_PROXY, 5));
}

}  // namespace
}  // namespace tpx::test
