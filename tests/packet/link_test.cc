// SPDX-License-Identifier: Apache-2.0
// Rules that ask for the link that a packet came by.
#include <algorithm>

#include "support/packet_fixture.h"

namespace tpx::test {
namespace {

constexpr policy::MacAddress kMac = {0x00, 0x53, 0xff, 0x12, 0x34, 0x56};
constexpr policy::MacAddress kOtherMac = {0x00, 0x53, 0xff, 0x12, 0x34, 0x57};
constexpr uint8_t kExpedited = 46;
constexpr uint32_t kForeignMark = 0x12;

class Link : public FamilyTest {
 protected:
  // Drops what the rule accepts.
  static void Publish(policy::Rule rule) {
    rule.action = TPX_ACTION_DROP;
    runner().Publish(PolicyOf({std::move(rule)}));
  }
  // A SYN or a datagram to a port that no rule is about.
  Bytes Frame(uint8_t protocol = 6, const policy::MacAddress& mac = kMac, uint8_t dscp = 0) const {
    Packet packet = FromClient();
    Bytes frame = protocol == 6 ? packet.Tcp(kClientPort, 5000).Syn().Build()
                                : packet.Udp(kClientPort, 5000).Payload(8).Build();
    std::copy(mac.begin(), mac.end(), frame.begin() + 6);
    uint8_t* ip = frame.data() + kEthernetBytes;
    if (v4()) {
      ip[1] = static_cast<uint8_t>(dscp << 2 | 1);  // and a bit of ECN
    } else {
      ip[0] = static_cast<uint8_t>(0x60 | dscp >> 2);
      ip[1] = static_cast<uint8_t>((dscp & 3) << 6 | 0x1f);  // and of the flow label
    }
    return frame;
  }
  static int ReasonOf(const Bytes& frame, uint32_t mark = 0) {
    runner().ForgetFlows();
    return runner().Run(Hook::kLan, frame, mark).reason;
  }
};
TPX_BOTH_FAMILIES(Link);

TEST_P(Link, InterfaceByNameOrPattern) {
  for (const char* pattern : {"lan1", "lan*", "l?n[1-3]"}) {
    Publish({.interfaces = {"eth7", pattern}});
    EXPECT_EQ(ReasonOf(Frame()), TPX_R_RULE_DROP) << pattern;
    EXPECT_EQ(ReasonOf(Frame(17)), TPX_R_RULE_DROP) << pattern;
    runner().ComeInBy(ProgRunner::kOtherDevice);
    EXPECT_EQ(ReasonOf(Frame()), TPX_R_RULE_BYPASS) << pattern;
    runner().ComeInBy(ProgRunner::kFirstDevice);
  }
  Publish({.interfaces = {"wlan*"}});
  EXPECT_EQ(ReasonOf(Frame()), TPX_R_RULE_BYPASS);
}

TEST_P(Link, NotTheInterface) {
  Publish({.interfaces = {"lan*"}, .negated = policy::kMatchInterface});
  EXPECT_EQ(ReasonOf(Frame()), TPX_R_RULE_BYPASS);
  runner().ComeInBy(ProgRunner::kOtherDevice);
  EXPECT_EQ(ReasonOf(Frame()), TPX_R_RULE_DROP);
}

TEST_P(Link, Mac) {
  Publish({.macs = {kMac}});
  EXPECT_EQ(ReasonOf(Frame(6, kMac)), TPX_R_RULE_DROP);
  EXPECT_EQ(ReasonOf(Frame(17, kMac)), TPX_R_RULE_DROP);
  EXPECT_EQ(ReasonOf(Frame(6, kOtherMac)), TPX_R_RULE_BYPASS);
  Publish({.macs = {kMac}, .negated = policy::kMatchMac});
  EXPECT_EQ(ReasonOf(Frame(6, kMac)), TPX_R_RULE_BYPASS);
  EXPECT_EQ(ReasonOf(Frame(6, kOtherMac)), TPX_R_RULE_DROP);
}

TEST_P(Link, Dscp) {
  Publish({.dscps = {kExpedited, 63}});
  EXPECT_EQ(ReasonOf(Frame(6, kMac, kExpedited)), TPX_R_RULE_DROP);
  EXPECT_EQ(ReasonOf(Frame(17, kMac, 63)), TPX_R_RULE_DROP);
  EXPECT_EQ(ReasonOf(Frame(6, kMac, 0)), TPX_R_RULE_BYPASS);
  EXPECT_EQ(ReasonOf(Frame(6, kMac, kExpedited - 1)), TPX_R_RULE_BYPASS);
}

TEST_P(Link, Mark) {
  Publish({.marks = {{0x10, 0xf0}, {7, 0xffffffff}}});
  EXPECT_EQ(ReasonOf(Frame(), kForeignMark), TPX_R_RULE_DROP);
  EXPECT_EQ(ReasonOf(Frame(), 7), TPX_R_RULE_DROP);
  EXPECT_EQ(ReasonOf(Frame(), 0x20), TPX_R_RULE_BYPASS);
  EXPECT_EQ(ReasonOf(Frame(), 8), TPX_R_RULE_BYPASS);
  Publish({.marks = {{0x10, 0xf0}}, .negated = policy::kMatchMark});
  EXPECT_EQ(ReasonOf(Frame(), kForeignMark), TPX_R_RULE_BYPASS);
  EXPECT_EQ(ReasonOf(Frame(), 7), TPX_R_RULE_DROP);
}

TEST_P(Link, NotThePrefix) {
  Publish({.dst = {*Prefix::Parse(f().server_net)}, .negated = policy::kMatchDst});
  EXPECT_EQ(ReasonOf(Frame()), TPX_R_RULE_BYPASS);
  Publish({.src = {*Prefix::Parse(f().server_net)}, .negated = policy::kMatchSrc});
  EXPECT_EQ(ReasonOf(Frame()), TPX_R_RULE_DROP);
}

TEST_P(Link, AllMustFit) {
  Publish({.interfaces = {"lan1"}, .macs = {kMac}, .dscps = {kExpedited}, .marks = {{0x12, 0xff}}});
  EXPECT_EQ(ReasonOf(Frame(6, kMac, kExpedited), kForeignMark), TPX_R_RULE_DROP);
  EXPECT_EQ(ReasonOf(Frame(6, kOtherMac, kExpedited), kForeignMark), TPX_R_RULE_BYPASS);
  EXPECT_EQ(ReasonOf(Frame(6, kMac, 0), kForeignMark), TPX_R_RULE_BYPASS);
  EXPECT_EQ(ReasonOf(Frame(6, kMac, kExpedited), 0), TPX_R_RULE_BYPASS);
  runner().ComeInBy(ProgRunner::kOtherDevice);
  EXPECT_EQ(ReasonOf(Frame(6, kMac, kExpedited), kForeignMark), TPX_R_RULE_BYPASS);
}

// A fragment without ports is judged by its link all the same.
TEST_P(Link, LaterFragments) {
  Publish({.macs = {kMac}});
  Bytes frame = FromClient().Fragment(1480, false).Protocol(17).Payload(64).Build();
  std::copy(kMac.begin(), kMac.end(), frame.begin() + 6);
  EXPECT_EQ(ReasonOf(frame), TPX_R_FRAG_DROPPED);
  std::copy(kOtherMac.begin(), kOtherMac.end(), frame.begin() + 6);
  EXPECT_EQ(ReasonOf(frame), TPX_R_FRAG_PASSED);
}

// sk_lookup sees only the device: what tc decided reaches it with the packet.
TEST_P(Link, TheListenerIsChosenByWhatTcDecided) {
  policy::Rule rule{.macs = {kMac}, .action = TPX_ACTION_PROXY, .source = TPX_SOURCE_PRESERVE};
  runner().Publish(PolicyOf({rule}));
  const tpx_flow flow = FlowOf(Address(f().client), kClientPort, Address(f().server), 5000);
  const Outcome outcome = runner().Run(Hook::kLan, Frame());
  ASSERT_EQ(outcome.reason, TPX_R_RULE_PROXY);
  const LookupOutcome found = runner().Lookup(flow);
  EXPECT_EQ(found.reason, TPX_R_LK_STEERED);
  EXPECT_EQ(found.listener % TPX_LISTENER_KINDS, TPX_LISTENER_TCP_PRESERVE);
  EXPECT_EQ(runner().Lookup(flow).reason, TPX_R_LK_NOT_OURS) << "nothing is known of the link";
}

}  // namespace
}  // namespace tpx::test
