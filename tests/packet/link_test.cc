// SPDX-License-Identifier: Apache-2.0
// Rules that ask for the link that a packet came by.
#include <algorithm>
#include <random>

#include "support/packet_fixture.h"
#include "support/reference_policy.h"
#include "support/scale.h"

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

class RandomLink : public Link {
 protected:
  size_t Below(size_t n) { return random_() % n; }
  template <typename T, size_t N>
  const T& OneOf(const T (&values)[N]) {
    return values[Below(N)];
  }

  policy::Rule MakeRule() {
    constexpr tpx_action kActions[] = {TPX_ACTION_BYPASS, TPX_ACTION_PROXY, TPX_ACTION_DROP,
                                       TPX_ACTION_REJECT};
    const char* const kPatterns[] = {"lan1", "lan[2-9]", "l*1"};
    policy::Rule rule{.action = OneOf(kActions)};
    if (Below(3) == 0) rule.interfaces = {OneOf(kPatterns)};
    if (Below(3) == 0) rule.macs = {OneOf(kMacs)};
    if (Below(3) == 0) rule.dscps = {OneOf(kDscps)};
    if (Below(3) == 0) rule.marks = {OneOf(kMatches)};
    if (Below(8) == 0) rule.vlans = {5};
    if (Below(3) == 0)
      rule.dst = {*Prefix::Parse(Below(2) == 0 ? f().server_net : v4() ? "0.0.0.0/1" : "2001:db8:ffff::/48")};
    if (Below(3) == 0) rule.protocols = {static_cast<uint8_t>(Below(2) == 0 ? 6 : 17)};
    // Of DSCPs the parser lists the others.
    auto negate = [&](policy::MatchKey key, bool listed) {
      if (listed && Below(3) == 0) rule.negated |= key;
    };
    negate(policy::kMatchInterface, !rule.interfaces.empty());
    negate(policy::kMatchMac, !rule.macs.empty());
    negate(policy::kMatchMark, !rule.marks.empty());
    negate(policy::kMatchVlan, !rule.vlans.empty());
    negate(policy::kMatchDst, !rule.dst.empty());
    return rule;
  }

  policy::TestFlow MakeFlow() {
    const bool first = Below(2) == 0;
    return {.src = Address(f().client),
            .dst = Address(f().server),
            .protocol = static_cast<uint8_t>(Below(2) == 0 ? 6 : 17),
            .sport = kClientPort,
            .dport = 5000,
            .device = first ? "lan1" : "",
            .ifindex = first ? ProgRunner::kFirstDevice : ProgRunner::kOtherDevice,
            .mac = OneOf(kMacs),
            .dscp = OneOf(kDscps),
            .mark = OneOf(kMarks)};
  }

 private:
  static constexpr policy::MacAddress kMacs[] = {kMac, kOtherMac, {}, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff}};
  static constexpr uint8_t kDscps[] = {0, 1, kExpedited, 63};
  static constexpr uint32_t kMarks[] = {0, 1, kForeignMark, 0x10, 0x80000000, 0x9fffffff};
  static constexpr policy::MarkMatch kMatches[] = {
      {0x10, 0xf0}, {kForeignMark, 0xffffffff}, {0, 1}, {0x80000000, 0x80000000}, {0, 0xffffffff}};
  std::mt19937 random_{7};
};
TPX_BOTH_FAMILIES(RandomLink);

TEST_P(RandomLink, ProgramsAgreeWithAPlainReadingOfTheRules) {
  constexpr tpx_reason kReasons[] = {TPX_R_RULE_BYPASS, TPX_R_RULE_PROXY, TPX_R_RULE_DROP, TPX_R_RULE_REJECT};
  runner().StartWorkers(1);
  for (uint32_t n = 0; n < Scaled(60); ++n) {
    std::vector<policy::Rule> rules(1 + Below(6));
    for (policy::Rule& rule : rules) rule = MakeRule();
    const policy::Policy policy = PolicyOf(rules);
    runner().Publish(policy);
    for (int i = 0; i < 100; ++i) {
      const policy::TestFlow flow = MakeFlow();
      const size_t rule = policy::FirstMatch(policy, flow);
      runner().AllowRefusals();
      runner().ComeInBy(flow.ifindex);
      ASSERT_EQ(ReasonOf(Frame(flow.protocol, flow.mac, flow.dscp), flow.mark),
                kReasons[policy.rules[rule].action])
          << "policy " << n << " packet " << i << ": rule " << rule << ", mark " << flow.mark << ", dscp "
          << int{flow.dscp} << ", protocol " << int{flow.protocol} << ", device " << flow.ifindex;
    }
  }
}

}  // namespace
}  // namespace tpx::test
