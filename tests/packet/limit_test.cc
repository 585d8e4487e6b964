// SPDX-License-Identifier: Apache-2.0
// How fast one source may begin flows: the limits of rules. Rates are so low
// that nothing comes back by itself while a test runs; time passes by AgeSources.
#include "support/packet_fixture.h"

namespace tpx::test {
namespace {

constexpr uint16_t kLimited = 1000, kLimitedToo = 1001, kLimitedBypass = 1002, kLimitedPreserved = 1003,
                   kLimitedRedirect = 1004, kPenalty = 1005, kUnlimited = 1006, kLimitedClosed = 1007;
constexpr int kBurst = 5;
constexpr int64_t kSecond = 1000, kRefill = kSecond;  // of one flow

class Limit : public DatagramTest {
 protected:
  void SetUp() override {
    DatagramTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    runner().Publish(LimitedPolicy());
  }

  static policy::Rule Limited(uint16_t port, tpx_action action, uint32_t burst = kBurst,
                              uint32_t penalty_s = 0) {
    policy::Rule rule = RuleFor({port}, action, TPX_FAIL_OPEN, {6, kUdp});
    rule.limit = {.per_second = 1, .burst = burst, .penalty_s = penalty_s};
    return rule;
  }

  policy::Policy LimitedPolicy(uint32_t burst = kBurst) const {
    policy::Rule preserved = Limited(kLimitedPreserved, TPX_ACTION_PROXY),
                 redirected = Limited(kLimitedRedirect, TPX_ACTION_REDIRECT),
                 closed = Limited(kLimitedClosed, TPX_ACTION_PROXY);
    preserved.source = TPX_SOURCE_PRESERVE;
    redirected.target = {.addr = Address(f().other_server), .port = kTargetPort};
    closed.fail_mode = TPX_FAIL_CLOSED;
    return PolicyOf({Limited(kLimited, TPX_ACTION_PROXY, burst), Limited(kLimitedToo, TPX_ACTION_PROXY),
                     Limited(kLimitedBypass, TPX_ACTION_BYPASS), preserved, redirected,
                     Limited(kPenalty, TPX_ACTION_PROXY, kBurst, 60), closed,
                     RuleFor({kUnlimited}, TPX_ACTION_PROXY, TPX_FAIL_OPEN, {6, kUdp})});
  }

  // Flows that have never been before.
  Packet NewSyn(uint16_t port) { return NewSyn(port, f().client); }
  Packet NewSyn(uint16_t port, std::string_view client) {
    return Packet().Ip(client, f().server).Tcp(next_port_++, port).Syn();
  }
  Packet NewDatagram(uint16_t port) { return To(port, next_port_++); }

  // `count` new flows of TCP and UDP in turn meet `reason`.
  void Begin(uint16_t port, int count, tpx_reason reason) {
    for (int i = 0; i < count; ++i) {
      const Packet packet = i % 2 == 0 ? NewSyn(port) : NewDatagram(port);
      EXPECT_EQ(Lan(packet), Leaves(reason)) << "flow " << i << " to port " << port;
    }
  }

  const char* other_client() const { return v4() ? "192.0.2.3" : "2001:db8:1:1::2"; }

 private:
  uint16_t next_port_ = 10'000;
};
TPX_BOTH_FAMILIES(Limit);

TEST_P(Limit, TheBurstPassesAndNoMore) {
  Begin(kLimited, kBurst, TPX_R_RULE_PROXY);
  Begin(kLimited, 20, TPX_R_RATE_LIMITED);
}

TEST_P(Limit, ARepeatedSynIsAnotherAttempt) {
  const Packet syn = NewSyn(kLimitedBypass);
  for (int i = 0; i < kBurst; ++i) EXPECT_EQ(Lan(syn), Leaves(TPX_R_RULE_BYPASS));
  EXPECT_EQ(Lan(syn), Leaves(TPX_R_RATE_LIMITED));
}

TEST_P(Limit, EachSourceHasItsOwn) {
  Begin(kLimited, kBurst, TPX_R_RULE_PROXY);
  Begin(kLimited, 1, TPX_R_RATE_LIMITED);
  for (int i = 0; i < kBurst; ++i) {
    EXPECT_EQ(Lan(NewSyn(kLimited, other_client())), Leaves(TPX_R_RULE_PROXY));
  }
  EXPECT_EQ(Lan(NewSyn(kLimited, other_client())), Leaves(TPX_R_RATE_LIMITED));
  EXPECT_EQ(runner().Sources().size(), 2u);
}

TEST_P(Limit, WhatIsUsedComesBackWithTime) {
  Begin(kLimited, kBurst, TPX_R_RULE_PROXY);
  Begin(kLimited, 1, TPX_R_RATE_LIMITED);
  runner().AgeSources(kRefill);
  Begin(kLimited, 1, TPX_R_RULE_PROXY);
  Begin(kLimited, 1, TPX_R_RATE_LIMITED);
  runner().AgeSources(3 * kRefill);
  Begin(kLimited, 3, TPX_R_RULE_PROXY);
  Begin(kLimited, 1, TPX_R_RATE_LIMITED);
  runner().AgeSources(20 * kRefill);
  Begin(kLimited, kBurst, TPX_R_RULE_PROXY);
  Begin(kLimited, 1, TPX_R_RATE_LIMITED);
}

TEST_P(Limit, APenaltyEndsOnlyAfterItsTime) {
  Begin(kPenalty, kBurst, TPX_R_RULE_PROXY);
  Begin(kPenalty, 1, TPX_R_RATE_LIMITED);
  Begin(kPenalty, 3, TPX_R_RATE_PENALTY);
  runner().AgeSources(50 * kSecond);  // the bucket has been full again for long
  Begin(kPenalty, 3, TPX_R_RATE_PENALTY);
  Begin(kLimited, kBurst, TPX_R_RULE_PROXY);  // another rule's
  runner().AgeSources(10 * kSecond);          // attempts do not prolong it
  Begin(kPenalty, kBurst, TPX_R_RULE_PROXY);
  Begin(kPenalty, 1, TPX_R_RATE_LIMITED);
  Begin(kPenalty, 1, TPX_R_RATE_PENALTY);
}

TEST_P(Limit, RulesCountEachForItself) {
  Begin(kLimited, kBurst, TPX_R_RULE_PROXY);
  Begin(kLimited, 1, TPX_R_RATE_LIMITED);
  Begin(kLimitedToo, kBurst, TPX_R_RULE_PROXY);
  Begin(kLimitedToo, 1, TPX_R_RATE_LIMITED);
  Begin(kUnlimited, 100, TPX_R_RULE_PROXY);
  EXPECT_EQ(runner().Sources().size(), 2u);
}

TEST_P(Limit, ConcernsEveryActionThatBeginsFlows) {
  for (uint16_t port : {kLimitedPreserved, kLimitedRedirect}) {
    Begin(port, kBurst, TPX_R_RULE_PROXY);
    Begin(port, 2, TPX_R_RATE_LIMITED);
  }
  Begin(kLimitedBypass, kBurst, TPX_R_RULE_BYPASS);
  Begin(kLimitedBypass, 2, TPX_R_RATE_LIMITED);
}

TEST_P(Limit, AFlowThatHasBegunGoesOn) {
  const uint16_t sport = 50'000;
  EXPECT_EQ(Lan(To(kLimited, sport)), Leaves(TPX_R_RULE_PROXY));
  EXPECT_EQ(Lan(To(kLimitedBypass, sport)), Leaves(TPX_R_RULE_BYPASS));
  Begin(kLimited, kBurst - 1, TPX_R_RULE_PROXY);
  Begin(kLimited, 1, TPX_R_RATE_LIMITED);
  Begin(kLimitedBypass, kBurst - 1, TPX_R_RULE_BYPASS);
  Begin(kLimitedBypass, 1, TPX_R_RATE_LIMITED);
  for (int i = 0; i < 2 * kBurst; ++i) {
    EXPECT_EQ(Lan(To(kLimited, sport)), Leaves(TPX_R_ESTABLISHED));
    EXPECT_EQ(Lan(To(kLimitedBypass, sport)), Leaves(TPX_R_DIRECT));
    EXPECT_EQ(Lan(FromClient().Tcp(sport, kLimitedBypass).Ack()), Leaves(TPX_R_DIRECT));
  }
}

TEST_P(Limit, ADenialIsNotRemembered) {
  const Packet datagram = To(kLimited, 50'000);
  Begin(kLimited, kBurst, TPX_R_RULE_PROXY);
  EXPECT_EQ(Lan(datagram), Leaves(TPX_R_RATE_LIMITED));
  EXPECT_FALSE(runner().InFlows(Flow(kLimited, 50'000)));
  runner().AgeSources(kRefill);
  EXPECT_EQ(Lan(datagram), Leaves(TPX_R_RULE_PROXY));
}

TEST_P(Limit, WhatIsDroppedForOtherReasonsUsesNothing) {
  for (int i = 0; i < 2 * kBurst; ++i) {
    EXPECT_EQ(Lan(NewSyn(kLimited).Fin()), Leaves(TPX_R_BAD_FLAGS));
  }
  runner().SetState(0, TPX_WORKER_DRAINING);
  runner().SetState(1, TPX_WORKER_DRAINING);
  Begin(kLimitedClosed, 2 * kBurst, TPX_R_BUSY_CLOSED);
  EXPECT_TRUE(runner().Sources().empty());
  runner().SetState(0, TPX_WORKER_SERVING);
  Begin(kLimited, kBurst, TPX_R_RULE_PROXY);
  Begin(kLimitedClosed, kBurst, TPX_R_RULE_PROXY);
  Begin(kLimitedClosed, 1, TPX_R_RATE_LIMITED);
}

TEST_P(Limit, HoldsWhereNoWorkerIsAndTheRuleFailsOpen) {
  runner().SetState(0, TPX_WORKER_DRAINING);
  runner().SetState(1, TPX_WORKER_DRAINING);
  Begin(kLimited, kBurst, TPX_R_BUSY_OPEN);
  Begin(kLimited, 1, TPX_R_RATE_LIMITED);
}

TEST_P(Limit, TheFragmentsOfALimitedDatagramAreDropped) {
  auto fragment = [this](uint16_t offset, bool more) { return FromClient().Fragment(offset, more, 77); };
  Begin(kLimitedBypass, kBurst, TPX_R_RULE_BYPASS);
  EXPECT_EQ(Lan(fragment(0, true).Udp(50'000, kLimitedBypass).Payload(64).UdpLength(200)),
            Leaves(TPX_R_RATE_LIMITED));
  EXPECT_EQ(Lan(fragment(72, false).Protocol(kUdp).Payload(64)), Leaves(TPX_R_FRAG_DROPPED));
}

TEST_P(Limit, AReloadMayNarrowIt) {
  runner().Publish(LimitedPolicy(100));
  Begin(kLimited, 100, TPX_R_RULE_PROXY);
  Begin(kLimited, 1, TPX_R_RATE_LIMITED);
  runner().Publish(PolicyOf({}));
  runner().Publish(LimitedPolicy(kBurst));  // the same slot, the same counters
  Begin(kLimited, 1, TPX_R_RATE_LIMITED);   // as if the smaller burst had been used up
  runner().AgeSources(2 * kRefill);
  Begin(kLimited, 2, TPX_R_RULE_PROXY);
  Begin(kLimited, 1, TPX_R_RATE_LIMITED);
}

TEST_P(Limit, AnIcmpMessageIsNoFlow) {
  policy::Rule all = RuleFor({}, TPX_ACTION_BYPASS, TPX_FAIL_OPEN, {});
  all.limit = {.per_second = 1, .burst = 1, .penalty_s = 0};
  runner().Publish(PolicyOf({RuleFor({}, TPX_ACTION_DROP, TPX_FAIL_OPEN, {47}), all}));
  for (int i = 0; i < 5; ++i) EXPECT_EQ(Lan(FromClient().Icmp(8, 128)), Leaves(TPX_R_RULE_BYPASS));
  Begin(80, 1, TPX_R_RULE_BYPASS);
  Begin(80, 2, TPX_R_RATE_LIMITED);
}

TEST_P(Limit, OfIpv6TheFirst64BitsAreTheSource) {
  if (v4()) GTEST_SKIP() << "IPv6 only";
  for (int i = 0; i < kBurst; ++i) {
    EXPECT_EQ(Lan(NewSyn(kLimited, "2001:db8:1:0:ffff::" + std::to_string(i))), Leaves(TPX_R_RULE_PROXY));
  }
  EXPECT_EQ(Lan(NewSyn(kLimited)), Leaves(TPX_R_RATE_LIMITED));
  EXPECT_EQ(Lan(NewSyn(kLimited, "2001:db8:1:1:ffff::1")), Leaves(TPX_R_RULE_PROXY));
  EXPECT_EQ(runner().Sources().size(), 2u);
}

}  // namespace
}  // namespace tpx::test
