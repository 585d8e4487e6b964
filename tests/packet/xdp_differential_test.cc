// SPDX-License-Identifier: Apache-2.0
// Random policies and packets: whatever XDP drops, tc drops, too, for the same reason and by the same rule;
// and what XDP tells it is what it finds. Test runs of tc take no metadata, so here tc always looks; that it
// believes what it is told is for tests/netns/xdp_note_test.py.
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include <algorithm>
#include <array>
#include <map>
#include <random>

#include "support/connection.h"
#include "support/packet_fixture.h"
#include "support/scale.h"

namespace tpx::test {
namespace {

constexpr uint16_t kPorts[] = {0, 22, 53, 80, 443, 65535};
constexpr uint8_t kProtocols[] = {6, 6, 17, 17, 1, 58, 47, 136};
constexpr std::array<policy::MacAddress, 2> kMacs = {{{0, 0x53, 1, 2, 3, 4}, {0, 0x53, 1, 2, 3, 5}}};

class Random {
 public:
  explicit Random(uint32_t seed) : engine_(seed) {}
  uint32_t Below(uint32_t n) { return static_cast<uint32_t>(engine_() % n); }
  bool OneIn(uint32_t n) { return Below(n) == 0; }
  template <typename T, size_t n>
  T Of(const T (&values)[n]) {
    return values[Below(n)];
  }

  const char* From(const Family& f) {
    return OneIn(10) ? Of({f.gateway, f.loopback, f.multicast, f.server}) : Of({f.client, f.other_server});
  }
  const char* To(const Family& f) {
    return OneIn(6) ? Of({f.gateway, f.multicast, f.link_local, f.metadata, f.broadcast})
                    : Of({f.server, f.server, f.other_server, f.client});
  }

  policy::Rule Rule() {
    const Family& f = kFamilies[Below(2)];
    policy::Rule rule;
    rule.action = Of({TPX_ACTION_DROP, TPX_ACTION_DROP, TPX_ACTION_REJECT, TPX_ACTION_BYPASS,
                      TPX_ACTION_PROXY, TPX_ACTION_PROXY});
    if (!OneIn(3)) rule.protocols = {Of(kProtocols)};
    if (OneIn(2)) rule.dst = {{Address(f.server), 128}};
    if (OneIn(4)) rule.src = {{Address(f.client), 128}};
    if (OneIn(2)) rule.dports = {{Of(kPorts), 65535}};
    if (OneIn(8)) rule.macs = {kMacs[Below(2)]};
    if (OneIn(8)) rule.dscps = {static_cast<uint8_t>(Below(2) * 46)};
    if (OneIn(8)) rule.interfaces = {OneIn(2) ? "lan1" : "lan2"};
    if (OneIn(40)) rule.marks = {{0, 1}};
    if (rule.action == TPX_ACTION_PROXY) {
      rule.fail_mode = Of({TPX_FAIL_OPEN, TPX_FAIL_CLOSED, TPX_FAIL_RESET});
      rule.source = Of({TPX_SOURCE_MASQUERADE, TPX_SOURCE_PRESERVE});
    }
    const bool begins = rule.action == TPX_ACTION_PROXY || rule.action == TPX_ACTION_BYPASS;
    if (begins && OneIn(2)) rule.limit = {.per_second = 1, .burst = 1, .penalty_s = Below(2) * 60};
    return rule;
  }

  Bytes Frame() {
    const Family& f = kFamilies[Below(2)];
    Packet packet = Packet().Ip(From(f), To(f));
    if (OneIn(20)) packet.Vlan(static_cast<uint16_t>(Below(3)));
    if (OneIn(20)) packet.Fragment(Of<uint16_t>({0, 64}), OneIn(2), Below(4));
    if (OneIn(10)) packet.is_v4() ? packet.Option({7, 7, 4, 0, 0, 0, 0}) : packet.Extension(60);
    Finish(packet);
    Bytes frame = packet.Build();
    const policy::MacAddress& mac = kMacs[Below(2)];
    std::copy(mac.begin(), mac.end(), frame.begin() + 6);
    if (OneIn(8)) frame[kEthernetBytes + 1] = packet.is_v4() ? 46 << 2 : frame[kEthernetBytes + 1];
    if (OneIn(4)) Damage(frame);
    return frame;
  }

 private:
  void Finish(Packet& packet) {
    const uint16_t from = static_cast<uint16_t>(1000 + Below(4));
    switch (const uint8_t protocol = Of(kProtocols)) {
      case 6:
        packet.Tcp(from, Of(kPorts)).Flags(OneIn(3) ? static_cast<uint8_t>(Below(64)) : 2);
        break;
      case 17:
        packet.Udp(from, Of(kPorts)).Payload(Below(40));
        break;
      case 1:
        packet.Icmp(Of<uint8_t>({8, 3, 5, 11}), Of<uint8_t>({128, 1, 137, 3}));
        if (OneIn(2)) packet.Quote(Packet().Ip(kFamilies[0].server, kFamilies[0].client).Udp(53, from));
        break;
      default:
        packet.Protocol(protocol).Payload(20);
    }
  }
  void Damage(Bytes& frame) {
    const auto at = kEthernetBytes - 2 + Below(static_cast<uint32_t>(frame.size() - kEthernetBytes + 2));
    if (OneIn(4)) return frame.resize(std::max<size_t>(kEthernetBytes + 40, Below(80)));
    frame[at] =
        OneIn(2) ? static_cast<uint8_t>(frame[at] ^ 1U << Below(8)) : static_cast<uint8_t>(Below(256));
  }

  std::mt19937 engine_;
};

std::vector<uint64_t> Hits(size_t rules) {
  std::vector<uint64_t> hits;
  for (uint32_t i = 0; i < rules; ++i)
    hits.push_back(SharedRunner().RuleHits(SharedRunner().generation(), i));
  return hits;
}

struct Tally {
  uint64_t early = 0, penalties = 0, late = 0;  // dropped by XDP, of them for a penalty; by a rule in tc
  std::map<int, uint64_t> noted{};              // passed by XDP with a note, by what it says
};

class XdpDifferential : public PacketTest {
 protected:
  static void CompareNote(const Outcome& early, const Outcome& late, const std::vector<uint64_t>& before,
                          Tally& tally) {
    ASSERT_EQ(late, Leaves(static_cast<tpx_reason>(early.noted)));
    for (uint32_t i = 0; i < before.size(); ++i) {
      const bool noted = runner().noted_counter() == runner().CounterOf(runner().generation(), i);
      ASSERT_EQ(runner().RuleHits(runner().generation(), i), before[i] + (noted ? 1 : 0)) << "rule " << i;
    }
    ++tally.noted[early.noted];
  }
  static void Compare(const Bytes& frame, size_t rules, Tally& tally) {
    const std::vector<uint64_t> before = Hits(rules);
    const Outcome early = runner().RunEarly(frame);
    ASSERT_FALSE(early.changed);
    const std::vector<uint64_t> between = Hits(rules);
    const Outcome late = runner().Run(Hook::kLan, frame);
    if (early.code != XDP_DROP) {
      ASSERT_EQ(early.code, XDP_PASS);
      ASSERT_EQ(early.reason, -1) << "counted, and passed";
      ASSERT_EQ(between, before);
      if (early.noted != -1) CompareNote(early, late, between, tally);
      tally.late += late.reason == TPX_R_RULE_DROP ? 1 : 0;
      return;
    }
    ASSERT_EQ(early.noted, -1);
    ASSERT_EQ(late.code, TC_ACT_SHOT) << late;
    ASSERT_EQ(ReasonName(late.reason), ReasonName(early.reason));
    const std::vector<uint64_t> after = Hits(rules);
    for (size_t i = 0; i < rules; ++i)
      ASSERT_EQ(between[i] - before[i], after[i] - between[i]) << "rule " << i;
    ++tally.early;
    tally.penalties += early.reason == TPX_R_RATE_PENALTY ? 1 : 0;
  }
};

TEST_F(XdpDifferential, WhatXdpDropsTcDropsToo) {
  // With fewer no penalty may come up.
  const uint32_t policies = std::max(Scaled(150), 50u), packets = 300;
  Tally tally;
  runner().StartWorkers(2);
  for (const Family& f : kFamilies) runner().AddLocal(Address(f.gateway));
  // Tuples that sockets have.
  Connection v4{{Address(kFamilies[0].client), 1000}, {Address(kFamilies[0].server), 443}};
  UniqueFd upstream = DatagramSocket({Address(kFamilies[1].server), 53}, kOwnMark);
  for (uint32_t seed = 1; seed <= policies; ++seed) {
    Random random(seed);
    std::vector<policy::Rule> rules(1 + random.Below(8));
    for (policy::Rule& rule : rules) rule = random.Rule();
    // What is remembered of the policy before stays, as after a reload.
    runner().Publish(PolicyOf(rules));
    if (random.OneIn(3)) runner().ForgetFlows();
    runner().SetState(0, random.OneIn(3) ? TPX_WORKER_DRAINING : TPX_WORKER_SERVING);
    runner().SetState(1, random.OneIn(2) ? TPX_WORKER_FULL : TPX_WORKER_SERVING);
    runner().AllowRefusals();
    for (uint32_t i = 0; i < packets; ++i) {
      Compare(random.Frame(), rules.size(), tally);
      ASSERT_FALSE(HasFatalFailure()) << "seed " << seed << " packet " << i;
    }
  }
  RecordProperty("early", static_cast<int>(tally.early));
  std::cout << tally.early << " dropped early, " << tally.penalties << " of them for a penalty, "
            << tally.late << " by a rule in tc\n";
  EXPECT_GT(tally.early, tally.late) << "XDP hardly drops anything";
  EXPECT_GT(tally.penalties, 0u);
  for (int reason :
       {TPX_R_SPECIAL_ADDRESS, TPX_R_OWN_ADDRESS, TPX_R_DIRECT, TPX_R_RULE_BYPASS, TPX_R_OTHER_PROTOCOL})
    EXPECT_GT(tally.noted[reason], 0u) << ReasonName(reason);
}

}  // namespace
}  // namespace tpx::test
