// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <linux/pkt_cls.h>

#include "support/check.h"
#include "support/fib_fixture.h"
#include "tpx/base/clock.h"
#include "tpx_nat.h"

namespace tpx::test {

// A client behind one device, a server behind the other, and a UDP session between them that has a port of
// the gateway's own: the cast of the tests of what tc translates.
class NatTest : public FibTest {
 protected:
  static constexpr uint16_t kServed = 9000, kOwnPort = 50'000;
  static constexpr uint8_t kUdp = 17;

  // The flow is known after it, as `rule` says.
  void Begin(const policy::Rule& rule) {
    runner().AddLocal(Address(own()));
    Publish(rule);
    ASSERT_EQ(Up(), Leaves(TPX_R_RULE_PROXY));
  }
  static policy::Rule Rule(tpx_forward forward) {
    policy::Rule rule = RuleFor({kServed}, TPX_ACTION_PROXY, TPX_FAIL_CLOSED, {kUdp});
    rule.forward = forward;
    return rule;
  }
  static void Publish(const policy::Rule& rule) { runner().Publish(PolicyOf({rule})); }
  static void Attach(uint32_t device) { runner().SetRole(device, TPX_ROLE_LAN); }
  static uint32_t NowSeconds() { return static_cast<uint32_t>(MonotonicNs() / 1'000'000'000); }

  const char* own() const { return v4() ? "203.0.113.1" : "2001:db8:3::1"; }
  tpx_flow UpFlow() const {
    return FlowOf(Address(far_client()), kClientPort, Address(far_server()), kServed, kUdp);
  }
  tpx_flow DownFlow() const { return FlowOf(Address(far_server()), kServed, Address(own()), kOwnPort, kUdp); }

  Packet Asks() const {
    return Packet().Ip(far_client(), far_server()).Udp(kClientPort, kServed).Payload(32);
  }
  Packet AsksTranslated() const {
    return Packet().Ip(own(), far_server()).Udp(kOwnPort, kServed).Payload(32);
  }
  Packet Answers() const { return Packet().Ip(far_server(), own()).Udp(kServed, kOwnPort).Payload(32); }
  Packet AnswersTranslated() const {
    return Packet().Ip(far_server(), far_client()).Udp(kServed, kClientPort).Payload(32);
  }
  // The client or the server is not there, it says.
  static Packet IcmpError(const char* from, const char* to, const Packet& about) {
    return Packet().Ip(from, to).Icmp(3, 1).Code(about.is_v4() ? 3 : 4).Quote(about);
  }

  Outcome Up(uint32_t mark = 0) const { return Up(Asks(), mark); }
  static Outcome Up(const Packet& packet, uint32_t mark = 0) {
    runner().ComeInBy(kIn);
    return runner().Run(Hook::kLan, FrameTo(kInMac, packet), mark);
  }
  Outcome Down(uint32_t mark = 0) const { return Down(Answers(), mark); }
  static Outcome Down(const Packet& packet, uint32_t mark = 0) {
    runner().ComeInBy(kOut);
    return runner().Run(Hook::kWan, FrameTo(kOutMac, packet), mark);
  }

  static Outcome Translated() {
    return {.code = TC_ACT_REDIRECT, .mark = kOwnMark, .reason = TPX_R_TRANSLATED, .changed = true};
  }
  static void ExpectDown(const Packet& packet, Packet translated) {
    EXPECT_EQ(Down(packet), Translated());
    EXPECT_EQ(runner().left(), FrameOf(kInMac, kClientMac, translated.HopLimit(63)));
  }
};

// The two bytes of payload with which the datagram's checksum comes to 0.
inline Bytes Balancing(Packet packet) {
  const Bytes frame = packet.Payload(Bytes{0, 0}).Build();
  return {frame.at(frame.size() - 4), frame.at(frame.size() - 3)};
}

}  // namespace tpx::test
