// SPDX-License-Identifier: Apache-2.0
// Under a SYN flood the only memory of a handshake is the client's ACK.
#include "support/packet_fixture.h"
#include "support/wire.h"

namespace tpx::test {
namespace {

class Cookie : public FamilyTest {
 protected:
  void SetUp() override {
    FamilyTest::SetUp();
    if (!IsSkipped()) Force(2);
  }
  void TearDown() override {
    if (!IsSkipped()) Force(1);
  }
  static void Force(int mode) {
    Shell("echo " + std::to_string(mode) + " > /proc/sys/net/ipv4/tcp_syncookies");
  }

  const char* host() const { return v4() ? Wire::kHostV4 : Wire::kHostV6; }
  Packet FromHost(uint16_t dport) const { return Packet().Ip(host(), f().server).Tcp(kClientPort, dport); }

  // Sends a SYN to the workers' listeners and returns the cookie of the answer.
  std::optional<uint32_t> CookieOf(Wire& wire, uint32_t sequence) const {
    wire.Send(FromHost(runner().listen_port()).Sequence(sequence, 0).Syn().Build());
    const size_t tcp = kEthernetBytes + (v4() ? 20 : 40);
    auto answer = wire.Receive([&](const Bytes& frame) {
      return frame.size() >= tcp + 20 && frame[12] == (v4() ? 0x08 : 0x86) &&
             frame[tcp - (v4() ? 11 : 34)] == 6 && frame[tcp + 13] == 0x12;
    });
    if (!answer) return std::nullopt;
    const uint8_t* at = answer->data() + tcp + 4;
    return uint32_t{at[0]} << 24 | uint32_t{at[1]} << 16 | uint32_t{at[2]} << 8 | at[3];
  }
};
TPX_BOTH_FAMILIES(Cookie);

TEST_P(Cookie, AnAckWithAValidCookieIsSteered) {
  Wire wire;
  auto cookie = CookieOf(wire, 1000);
  ASSERT_TRUE(cookie.has_value());
  const uint16_t port = runner().listen_port();
  EXPECT_EQ(Lan(FromHost(port).Sequence(1001, *cookie + 1).Ack()), Leaves(TPX_R_COOKIE));
  EXPECT_EQ(Lan(FromHost(port).Sequence(1001, *cookie + 1).Ack().Payload(100)), Leaves(TPX_R_COOKIE));
  EXPECT_EQ(Lan(FromHost(port).Sequence(1001, *cookie + 0x1001).Ack()), Leaves(TPX_R_DIRECT))
      << "wrong cookie";
  EXPECT_EQ(Lan(FromHost(port).Sequence(1001, *cookie + 1).Ack().Rst()), Leaves(TPX_R_DIRECT));
  EXPECT_EQ(Lan(FromHost(port).Sequence(1001, *cookie + 1).Ack().Syn()), Leaves(TPX_R_DIRECT));
  EXPECT_EQ(Lan(FromHost(port + 1).Sequence(1001, *cookie + 1).Ack()), Leaves(TPX_R_DIRECT))
      << "another tuple";
  EXPECT_EQ(Wan(FromHost(port).Sequence(1001, *cookie + 1).Ack()), Leaves(TPX_R_WAN));
  runner().StartWorkers(0);
  EXPECT_EQ(Lan(FromHost(port).Sequence(1001, *cookie + 1).Ack()), Leaves(TPX_R_DIRECT))
      << "nobody to judge it";
}

TEST_P(Cookie, AnyListenerJudgesTheCookieOfAnother) {
  constexpr uint32_t kWorkers = 9;
  runner().StartWorkers(kWorkers);
  Wire wire;
  auto cookie = CookieOf(wire, 5);
  ASSERT_TRUE(cookie.has_value());
  for (uint32_t worker = 0; worker < kWorkers; ++worker) {
    EXPECT_EQ(Lan(FromHost(runner().listen_port()).Sequence(6, *cookie + 1).Ack()), Leaves(TPX_R_COOKIE))
        << worker;
    runner().CloseListeners(worker);
  }
  EXPECT_EQ(Lan(FromHost(runner().listen_port()).Sequence(6, *cookie + 1).Ack()), Leaves(TPX_R_DIRECT));
}

TEST_P(Cookie, ABogusAckIsDirect) {
  for (uint32_t number : {0u, 1u, 0x80000000u, 0xffffffffu}) {
    EXPECT_EQ(Lan(FromClient().Tcp(kClientPort, kProxied).Sequence(number, number).Ack()),
              Leaves(TPX_R_DIRECT));
  }
}

}  // namespace
}  // namespace tpx::test
