// SPDX-License-Identifier: Apache-2.0
// Refused packets that are not TCP go back as the ICMP error that their destination would have sent.
#include "support/packet_fixture.h"

namespace tpx::test {
namespace {

constexpr uint8_t kGre = 47;

class Unreachable : public DatagramTest {
 protected:
  size_t ip_bytes() const { return v4() ? 20 : 40; }
  size_t answer_bytes() const { return kEthernetBytes + 2 * ip_bytes() + 16; }
  static Bytes Slice(const Bytes& frame, size_t from, size_t length) {
    auto begin = frame.begin() + static_cast<ptrdiff_t>(from);
    return Bytes(begin, begin + static_cast<ptrdiff_t>(length));
  }

  // The answer to `sent`, whose checksums are taken from what came back.
  Bytes Expected(const Bytes& sent, uint8_t type, uint8_t code) const {
    const Bytes& left = runner().left();
    Bytes frame = {2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1};
    auto append = [&frame](const Bytes& more) { frame.insert(frame.end(), more.begin(), more.end()); };
    append(Slice(sent, 12, 2));
    const size_t address = v4() ? 4 : 16, addresses = kEthernetBytes + ip_bytes() - 2 * address;
    if (v4()) {
      append({0x45, 0xc0, 0, 56, 0, 0, 0x40, 0, 64, 1, left.at(24), left.at(25)});
    } else {
      append({0x60, 0, 0, 0, 0, 56, 58, 64});
    }
    append(Slice(sent, addresses + address, address));
    append(Slice(sent, addresses, address));
    const size_t icmp = frame.size();
    append({type, code, left.at(icmp + 2), left.at(icmp + 3), 0, 0, 0, 0});
    append(Slice(sent, kEthernetBytes, ip_bytes() + 8));
    return frame;
  }
  void ExpectAnswer(const Packet& packet, tpx_reason reason, bool port = true) {
    SCOPED_TRACE(ReasonName(reason));
    const Bytes sent = packet.Build();
    runner().AllowRefusals();
    ASSERT_EQ(Lan(packet), Leaves(reason));
    ASSERT_EQ(runner().left().size(), answer_bytes());
    const uint8_t code = v4() ? (port ? 3 : 13) : (port ? 4 : 1);
    EXPECT_EQ(runner().left(), Expected(sent, v4() ? 3 : 1, code));
    EXPECT_TRUE(ChecksumsHold(runner().left()));
  }
  void PublishRejectionOf(uint8_t protocol) const {
    runner().Publish(PolicyOf({RuleFor({}, TPX_ACTION_REJECT, TPX_FAIL_OPEN, {protocol})}));
  }
  uint8_t icmp() const { return v4() ? 1 : 58; }
};
TPX_BOTH_FAMILIES(Unreachable);

TEST_P(Unreachable, ARefusedDatagramComesBackAsPortUnreachable) {
  ExpectAnswer(To(kRejected), TPX_R_RULE_REJECT);
  ExpectAnswer(To(kRejected).NoChecksum(), TPX_R_RULE_REJECT);
  ExpectAnswer(To(kRejected).DontFragment(), TPX_R_RULE_REJECT);
  for (size_t payload : {0, 1, 7, 28, 29, 1400, 3000}) {
    ExpectAnswer(FromClient().Udp(1, kRejected).Payload(payload), TPX_R_RULE_REJECT);
  }
}

TEST_P(Unreachable, PaddingIsNotQuoted) {
  ExpectAnswer(FromClient().Udp(1, kRejected).Padding(Bytes(18, 0xaa)), TPX_R_RULE_REJECT);
}

TEST_P(Unreachable, AnswersWhereNobodyServes) {
  for (uint32_t worker : {0, 1}) runner().SetState(worker, TPX_WORKER_DRAINING);
  ExpectAnswer(To(kProxiedReset), TPX_R_BUSY_RESET);
  for (uint32_t worker : {0, 1}) runner().EndLease(worker);
  ExpectAnswer(To(kProxiedReset), TPX_R_DOWN_RESET);
}

TEST_P(Unreachable, OtherProtocolsComeBackAsProhibited) {
  for (uint8_t protocol : {uint8_t{4}, uint8_t{33}, kGre, uint8_t{132}, uint8_t{136}}) {
    PublishRejectionOf(protocol);
    ExpectAnswer(FromClient().Protocol(protocol).Payload(40), TPX_R_RULE_REJECT, false);
    ExpectAnswer(FromClient().Protocol(protocol).Payload(8), TPX_R_RULE_REJECT, false);
  }
  PublishRejectionOf(icmp());
  ExpectAnswer(FromClient().Icmp(8, 128).Payload(56), TPX_R_RULE_REJECT, false);
}

TEST_P(Unreachable, KeepsTheMark) {
  EXPECT_EQ(Lan(To(kRejected), 0x1234), Leaves(TPX_R_RULE_REJECT, 0x1234));
}

TEST_P(Unreachable, OnlyPlainPacketsAreAnswered) {
  Packet long_header = v4() ? To(kRejected).Option({1, 1, 1, 1}) : To(kRejected).Extension(60);
  EXPECT_EQ(Lan(long_header), Leaves(TPX_R_REFUSED_QUIETLY));
  PublishRejectionOf(kGre);
  EXPECT_EQ(Lan(FromClient().Protocol(kGre).Payload(7)), Leaves(TPX_R_REFUSED_QUIETLY))
      << "too short to quote";
}

TEST_P(Unreachable, PartsOfADatagramAreNotAnswered) {
  EXPECT_EQ(Lan(FromClient().Fragment(0, true, 1).Udp(1, kRejected).Payload(56)),
            Leaves(TPX_R_REFUSED_QUIETLY));
  EXPECT_EQ(Lan(FromClient().Fragment(64, false, 1).Protocol(kUdp).Payload(64)), Leaves(TPX_R_FRAG_DROPPED));
}

TEST_P(Unreachable, ErrorsAndRedirectsAreNotAnswered) {
  PublishRejectionOf(icmp());
  Packet quoted = Packet().Ip(f().server, f().client).Udp(1, 2);
  const std::pair<uint8_t, uint8_t> types[] = {{3, 1}, {4, 2}, {5, 137}, {11, 3}, {12, 4}, {3, 127}};
  for (auto [v4_type, v6_type] : types) {
    EXPECT_EQ(Lan(FromClient().Icmp(v4_type, v6_type).Quote(quoted)), Leaves(TPX_R_REFUSED_QUIETLY))
        << unsigned{v4_type};
  }
}

TEST_P(Unreachable, WhatWasSentToMoreThanOneHostIsNotAnswered) {
  for (uint8_t first : {0xff, 0x01, 0x33}) {
    Bytes frame = To(kRejected).Build();
    std::fill_n(frame.begin(), 6, first);
    EXPECT_EQ(runner().Run(Hook::kLan, frame), Leaves(TPX_R_REFUSED_QUIETLY)) << unsigned{first};
  }
}

TEST_P(Unreachable, ImpossibleSendersAreNotAnswered) {
  PublishRejectionOf(kGre);
  for (const char* src : {f().server, f().loopback, f().unspecified, f().multicast, f().broadcast}) {
    EXPECT_EQ(Lan(Packet().Ip(src, f().server).Protocol(kGre).Payload(40)), Leaves(TPX_R_MARTIAN)) << src;
  }
}

TEST_P(Unreachable, AnswersAreLimited) {
  int answered = 0;
  while (answered < 1'000'000 && Lan(To(kRejected)) == Leaves(TPX_R_RULE_REJECT)) ++answered;
  EXPECT_GE(answered, 100) << "at once";
  EXPECT_LT(answered, 1'000'000);
  runner().StopRefusals();
  EXPECT_EQ(Lan(To(kRejected)), Leaves(TPX_R_REFUSED_QUIETLY));
  EXPECT_EQ(Lan(SynTo(kRejected)), Leaves(TPX_R_RULE_BYPASS));
  runner().Publish(PolicyOf({RuleFor({}, TPX_ACTION_REJECT, TPX_FAIL_OPEN, {})}));
  EXPECT_EQ(Lan(FromClient().Protocol(kGre).Payload(40)), Leaves(TPX_R_REFUSED_QUIETLY));
  EXPECT_EQ(Lan(SynTo(kRejected)), Leaves(TPX_R_RULE_REJECT)) << "a RST is no ICMP error";
  runner().AllowRefusals();
  EXPECT_EQ(Lan(To(kRejected)), Leaves(TPX_R_RULE_REJECT));
}

TEST_P(Unreachable, AChecksumThatTheDeviceFinishesLeavesTheAnswerWhole) {
  for (size_t payload : {0, 1, 2, 3, 100, 101, 1000}) {
    for (uint16_t port = 1; port < 40; ++port) {
      runner().AllowRefusals();
      Packet packet = FromClient().Udp(port, kRejected).Payload(payload).UnfinishedChecksum();
      ASSERT_EQ(Lan(packet), Leaves(TPX_R_RULE_REJECT));
      ASSERT_TRUE(ChecksumsHold(runner().left()));
      ASSERT_TRUE(ChecksumIsFinal(runner().left())) << payload << " " << port;
    }
  }
}

}  // namespace
}  // namespace tpx::test
