// SPDX-License-Identifier: Apache-2.0
// A refused SYN goes back as the RST that its destination would have sent.
#include "support/packet_fixture.h"

namespace tpx::test {
namespace {

constexpr int kShot = 2;  // TC_ACT_SHOT

class Reset : public FamilyTest {
 protected:
  size_t ip_bytes() const { return v4() ? 20 : 40; }
  // Bytes of the packet that the last run left behind, counted from the TCP header.
  static Bytes Slice(size_t from, size_t length) {
    auto begin = runner().left().begin() + static_cast<ptrdiff_t>(from);
    return Bytes(begin, begin + static_cast<ptrdiff_t>(length));
  }
  Bytes Tcp(size_t from, size_t length) const { return Slice(kEthernetBytes + ip_bytes() + from, length); }

  static Outcome DroppedAs(tpx_reason reason) {
    Outcome expected = Leaves(reason);
    expected.code = kShot;
    expected.changed = false;
    return expected;
  }
};
TPX_BOTH_FAMILIES(Reset);

TEST_P(Reset, GoesBackWithEverythingTurnedRound) {
  Packet syn = SynTo(kRejected).Sequence(0x01020304, 0);
  const Bytes sent = syn.Build();
  ASSERT_EQ(Lan(syn), Leaves(TPX_R_RULE_REJECT));
  ASSERT_EQ(runner().left().size(), kEthernetBytes + ip_bytes() + 20);
  EXPECT_EQ(Slice(0, 12), (Bytes{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1}));
  const size_t address = v4() ? 4 : 16, at = kEthernetBytes + ip_bytes() - 2 * address;
  EXPECT_EQ(Slice(at, address), Bytes(sent.begin() + static_cast<ptrdiff_t>(at + address),
                                      sent.begin() + static_cast<ptrdiff_t>(at + 2 * address)));
  EXPECT_EQ(Slice(at + address, address), Bytes(sent.begin() + static_cast<ptrdiff_t>(at),
                                                sent.begin() + static_cast<ptrdiff_t>(at + address)));
  EXPECT_EQ(Tcp(0, 4), (Bytes{0, kRejected, kClientPort >> 8, kClientPort & 0xff}));
  EXPECT_EQ(Tcp(4, 8), (Bytes{0, 0, 0, 0, 1, 2, 3, 5})) << "sequence number and acknowledgement";
  EXPECT_EQ(Tcp(12, 2), (Bytes{0x50, 0x14})) << "RST and ACK";
  EXPECT_TRUE(ChecksumsHold(runner().left()));
}

TEST_P(Reset, AcknowledgesTheDataOfTheSyn) {
  for (size_t payload : {1, 7, 1400, 3000}) {
    ASSERT_EQ(Lan(SynTo(kRejected).Sequence(0xffffffff, 0).Payload(payload)), Leaves(TPX_R_RULE_REJECT));
    EXPECT_EQ(Tcp(8, 4), (Bytes{0, 0, static_cast<uint8_t>(payload >> 8), static_cast<uint8_t>(payload)}));
    EXPECT_TRUE(ChecksumsHold(runner().left())) << payload;
  }
}

TEST_P(Reset, PaddingIsNoData) {
  ASSERT_EQ(Lan(SynTo(kRejected).Padding(Bytes(6, 0xaa))), Leaves(TPX_R_RULE_REJECT));
  EXPECT_EQ(Tcp(8, 4), (Bytes{0, 0, 0, 1}));
  EXPECT_EQ(runner().left().size(), kEthernetBytes + ip_bytes() + 20);
}

TEST_P(Reset, AnswersWhereNobodyServes) {
  for (uint32_t worker : {0, 1}) runner().EndLease(worker);
  ASSERT_EQ(Lan(SynTo(kProxiedReset)), Leaves(TPX_R_DOWN_RESET));
  EXPECT_TRUE(ChecksumsHold(runner().left()));
}

TEST_P(Reset, KeepsTheMark) { EXPECT_EQ(Lan(SynTo(kRejected), 0x1234), Leaves(TPX_R_RULE_REJECT, 0x1234)); }

TEST_P(Reset, OnlyPlainPacketsAreAnswered) {
  Packet long_header = v4() ? SynTo(kRejected).Option({1, 1, 1, 1}) : SynTo(kRejected).Extension(60);
  EXPECT_EQ(Lan(long_header), DroppedAs(TPX_R_RULE_REJECT));
  EXPECT_EQ(Lan(SynTo(kRejected).Vlan(0)), DroppedAs(TPX_R_RULE_REJECT));
  EXPECT_EQ(Lan(FromClient().Fragment(0, true).Tcp(kClientPort, kRejected).Syn().Payload(44)),
            DroppedAs(TPX_R_RULE_REJECT));
  EXPECT_EQ(Lan(SynTo(kRejected).DataOffset(15)), DroppedAs(TPX_R_RULE_REJECT))
      << "options that are not there";
}

TEST_P(Reset, LaterFragmentsOfARefusedPacketAreDropped) {
  Lan(FromClient().Fragment(0, true, 5).Tcp(kClientPort, kRejected).Syn().Payload(44));
  EXPECT_EQ(Lan(FromClient().Fragment(64, false, 5).Protocol(6).Payload(8)), Leaves(TPX_R_FRAG_DROPPED));
}

}  // namespace
}  // namespace tpx::test
