// SPDX-License-Identifier: Apache-2.0
// A million damaged packets: no fault, no byte changed, one reason each.
#include <random>

#include "support/packet_fixture.h"
#include "support/scale.h"

namespace tpx::test {
namespace {

constexpr int kPassed = -1, kShot = 2, kRedirected = 7;  // TC_ACT_*

// One of everything that the parser knows.
std::vector<Bytes> Seeds() {
  std::vector<Bytes> seeds;
  for (const Family& f : kFamilies) {
    auto ip = [&f] { return Packet().Ip(f.client, f.server); };
    for (const Packet& packet :
         {ip().Tcp(kClientPort, kProxied).Syn(),
          ip().Tcp(kClientPort, kDropped).Syn().Payload(64),
          ip().Tcp(1, 2).Ack(),
          ip().Vlan(0).Tcp(1, kRejected).Syn(),
          ip().Vlan(7).Udp(1, 2),
          ip().Udp(1, 53),
          ip().Udp(1, kProxied).Payload(32),
          ip().Udp(1, kRejected).Payload(32),
          ip().Udp(1, kRejected).UnfinishedChecksum(),
          ip().Extension(0).Udp(1, kProxied),
          ip().Fragment(0, true).Udp(1, kProxied).Payload(40),
          ip().Fragment(64, false).Protocol(17).Payload(24),
          ip().Icmp(3, 1).Quote(Packet().Ip(f.server, f.client).Udp(kProxied, 1)),
          ip().Protocol(132).Payload(20),
          ip().Fragment(0, true).Tcp(1, kDropped).Syn().Payload(40),
          ip().Fragment(0, true).Tcp(1, kDropped).Syn().TransportBytes(8),
          ip().Fragment(64, false).Protocol(6).Payload(24),
          ip().Option({7, 7, 4, 0, 0, 0, 0}).Tcp(1, kProxied).Syn(),
          ip().Option(Bytes(40, 1)).Tcp(1, kDropped).Syn(),
          ip().Extension(0).Extension(60, 24).Routing(4, 0).Extension(51, 24).Tcp(1, kProxied).Syn(),
          ip().Icmp(3, 1).Quote(Packet().Ip(f.server, f.client).Tcp(kProxied, 1), 20)}) {
      seeds.push_back(packet.Build());
    }
  }
  return seeds;
}

class Mutator {
 public:
  explicit Mutator(uint32_t seed) : random_(seed), seeds_(Seeds()) {}

  Bytes Next() {
    Bytes frame = seeds_[Below(seeds_.size())];
    for (size_t changes = Below(5); changes > 0; --changes) Change(frame);
    return frame;
  }
  size_t Below(size_t n) { return random_() % n; }

 private:
  void Change(Bytes& frame) {
    constexpr uint8_t kEnds[] = {0,  1,  2,  4,  5,  6,  8,  15,   16,   17,   40,
                                 43, 44, 45, 51, 58, 59, 60, 0x7f, 0x80, 0xfe, 0xff};
    // Mostly the headers: what is behind them is not looked at.
    size_t at = kEthernetBytes - 2 + Below(std::min<size_t>(frame.size() - kEthernetBytes + 2, 80));
    switch (Below(6)) {
      case 0:
        frame[at] = static_cast<uint8_t>(random_());
        break;
      case 1:
      case 2:
        frame[at] = kEnds[Below(std::size(kEnds))];
        break;
      case 3:
        frame[at] ^= static_cast<uint8_t>(1u << Below(8));
        break;
      case 4:
        frame.resize(std::max<size_t>(kEthernetBytes + 1, Below(frame.size() + 1)));
        break;
      default:
        frame.resize(frame.size() + Below(100), static_cast<uint8_t>(random_()));
    }
  }

  std::mt19937 random_;
  std::vector<Bytes> seeds_;
};

class Robustness : public FamilyTest {};
TPX_BOTH_FAMILIES(Robustness);

TEST_P(Robustness, P18_DamagedPacketsKeepTheInvariants) {
  constexpr uint32_t kBatch = 1000;
  runner().Publish(
      PolicyOf({RuleFor({kProxied}, TPX_ACTION_PROXY), RuleFor({kDropped}, TPX_ACTION_DROP),
                RuleFor({kRejected}, TPX_ACTION_REJECT), RuleFor({53}, TPX_ACTION_DROP, TPX_FAIL_OPEN, {17}),
                RuleFor({kProxied}, TPX_ACTION_PROXY, TPX_FAIL_RESET, {17}),
                RuleFor({}, TPX_ACTION_REJECT, TPX_FAIL_OPEN, {17, 132})}));
  Mutator mutator(v4() ? 4 : 6);
  constexpr uint32_t kMarks[] = {0, 0x12345, kSteerMark | 1};
  runner().TakeCounts();
  for (uint32_t batch = 0; batch < Scaled(1000); ++batch) {
    uint64_t ran = 0, steered = 0, dropped = 0;
    for (uint32_t i = 0; i < kBatch; ++i) {
      Bytes frame = mutator.Next();
      uint32_t mark = kMarks[mutator.Below(3)];
      Hook hook = mutator.Below(4) == 0 ? Hook::kWan : Hook::kLan;
      bool refused = false;
      Outcome outcome = runner().RunFast(hook, frame, mark, &refused);
      if (refused) continue;  // by the kernel, before the program: less than an IP header
      ++ran;
      ASSERT_TRUE(outcome.code == kPassed || outcome.code == kShot || outcome.code == kRedirected) << outcome;
      ASSERT_TRUE(outcome.code != kPassed || !outcome.changed) << outcome;
      ASSERT_EQ(outcome.mark & ~kMarkMask, mark & ~kMarkMask);
      if (outcome.code != kPassed) {
        ASSERT_EQ(outcome.mark, mark);
        ++dropped;
      } else if ((outcome.mark & kMarkMask) == kSteerMark) {
        ++steered;
      } else {
        ASSERT_EQ(outcome.mark & kMarkMask, 0u);
      }
    }
    auto counts = runner().TakeCounts();
    uint64_t by_effect[4] = {};
    for (int reason = 0; reason < TPX_REASON_COUNT; ++reason) {
      if (IsTcReason(reason)) by_effect[EffectOf(reason)] += counts[static_cast<size_t>(reason)];
    }
    ASSERT_EQ(by_effect[TPX_EFFECT_PASS] + steered + dropped, ran);
    ASSERT_EQ(by_effect[TPX_EFFECT_DROP] + by_effect[TPX_EFFECT_ANSWER], dropped);
    ASSERT_EQ(by_effect[TPX_EFFECT_STEER], steered);
  }
}

}  // namespace
}  // namespace tpx::test
