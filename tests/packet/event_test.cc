// SPDX-License-Identifier: Apache-2.0
// What the programs send to a trace: of which packets, what is in it, and what becomes of the rest.
#include <arpa/inet.h>
#include <netinet/in.h>

#include <cstring>
#include <functional>
#include <utility>

#include "support/event_tap.h"
#include "support/packet_fixture.h"

namespace tpx::test {
namespace {

// Rules of DatagramTest's policy, in its order.
enum RuleNumber : uint32_t { kProxyRule = 0, kDropRule = 6, kRejectRule = 7, kDefaultRule = 8 };

class Event : public DatagramTest {
 protected:
  void SetUp() override {
    DatagramTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    tap_ = std::make_unique<EventTap>(runner());
  }

  EventTap& tap() { return *tap_; }
  // The only event since the last look.
  tpx_event One() {
    std::vector<tpx_event> events = tap().Traced();
    EXPECT_EQ(events.size(), 1u);
    return events.size() == 1 ? events[0] : tpx_event{};
  }
  uint16_t CounterOf(uint32_t rule) const {
    return static_cast<uint16_t>((runner().generation() & 1) * TPX_MAX_RULES + rule);
  }
  static bool SameFlow(const tpx_flow& a, const tpx_flow& b) { return std::memcmp(&a, &b, sizeof(a)) == 0; }

 private:
  std::unique_ptr<EventTap> tap_;
};
TPX_BOTH_FAMILIES(Event);

TEST_P(Event, NothingIsSentWhileNobodyListens) {
  tap().Listen(EventTap::Everything());
  tap().Leave();
  for (uint16_t port : {kProxied, kDropped, kRejected, kBypassed}) Lan(To(port));
  Lan(SynTo(kDropped));
  runner().Lookup(Flow(kDropped, 7));
  EXPECT_TRUE(tap().Traced().empty());
  EXPECT_EQ(tap().Counts().matched, 0u);
}

TEST_P(Event, TellsTheDecisionOnANewFlow) {
  tap().Listen(EventTap::Everything());
  runner().ComeInBy(ProgRunner::kOtherDevice);
  struct Case {
    uint16_t port;
    tpx_reason reason;
    RuleNumber rule;
    tpx_action action;
  };
  for (const Case& c : {Case{kProxied, TPX_R_RULE_PROXY, kProxyRule, TPX_ACTION_PROXY},
                        Case{kDropped, TPX_R_RULE_DROP, kDropRule, TPX_ACTION_DROP},
                        Case{kRejected, TPX_R_RULE_REJECT, kRejectRule, TPX_ACTION_REJECT},
                        Case{kBypassed, TPX_R_RULE_BYPASS, kDefaultRule, TPX_ACTION_BYPASS}}) {
    runner().AllowRefusals();
    const Bytes frame = To(c.port).Build();
    EXPECT_EQ(Lan(To(c.port), 0x77).reason, c.reason);
    const tpx_event event = One();
    EXPECT_EQ(event.reason, c.reason);
    EXPECT_EQ(event.counter, CounterOf(c.rule)) << c.port;
    EXPECT_EQ(event.action, c.action);
    EXPECT_TRUE(SameFlow(event.flow, Flow(c.port)));
    EXPECT_EQ(event.ifindex, ProgRunner::kOtherDevice);
    EXPECT_EQ(event.mark, 0x77u);
    EXPECT_EQ(event.length, frame.size());
    EXPECT_EQ(event.hook, TPX_HOOK_TC);
    EXPECT_EQ(std::memcmp(event.mac, frame.data() + 6, 6), 0);
    EXPECT_GT(event.time_ns, 0u);
    if (c.reason == TPX_R_RULE_PROXY)
      EXPECT_EQ(event.worker, runner().Remembered(Flow(c.port))->worker);
    else
      EXPECT_EQ(event.worker, TPX_NO_WORKER);
  }
}

TEST_P(Event, OfTcpToo) {
  tap().Listen(EventTap::Everything());
  EXPECT_EQ(Lan(SynTo(kBypassed)).reason, TPX_R_RULE_BYPASS);
  const tpx_event event = One();
  EXPECT_TRUE(SameFlow(event.flow, FlowTo(kBypassed)));
  EXPECT_EQ(event.counter, CounterOf(kDefaultRule));
}

TEST_P(Event, WhatIsDecidedBeforeTheRulesNamesNone) {
  tap().Listen(EventTap::Everything());
  EXPECT_EQ(Lan(Packet().Ip(f().client, f().gateway).Udp(1, 2)).reason, TPX_R_OWN_ADDRESS);
  EXPECT_EQ(One().counter, TPX_NO_RULE);
  EXPECT_EQ(Lan(Packet().Ip(f().gateway, f().server).Udp(1, 2)).reason, TPX_R_MARTIAN);
  const tpx_event event = One();
  EXPECT_EQ(event.counter, TPX_NO_RULE);
  EXPECT_EQ(event.worker, TPX_NO_WORKER);
  EXPECT_EQ(Wan(Packet().Ip(f().server, f().client).Udp(1, 2)).reason, TPX_R_WAN);
  EXPECT_EQ(One().reason, TPX_R_WAN);
}

TEST_P(Event, KnownFlowsSendNothingUnlessTheirReasonIsAskedFor) {
  tpx_trace decisions = EventTap::Everything();
  decisions.reasons[0] = uint64_t{1} << TPX_R_RULE_PROXY | uint64_t{1} << TPX_R_RULE_BYPASS;
  decisions.reasons[1] = 0;
  tap().Listen(decisions);
  for (uint16_t port : {kProxied, kBypassed}) {
    for (int i = 0; i < 5; ++i) Lan(To(port));
    EXPECT_TRUE(SameFlow(One().flow, Flow(port)));
  }
  tap().Listen(EventTap::Everything());
  for (int i = 0; i < 5; ++i) Lan(To(kProxied));
  const std::vector<tpx_event> events = tap().Traced();
  ASSERT_EQ(events.size(), 5u);
  EXPECT_EQ(events[0].reason, TPX_R_ESTABLISHED);
  EXPECT_EQ(events[0].counter, TPX_NO_RULE);
}

TEST_P(Event, AfterTheLeaseNothingIsSentAndItIsEnded) {
  tap().Listen(EventTap::Everything(), -1);
  EXPECT_NE(tap().trace_deadline(), 0u);
  Lan(To(kDropped));
  EXPECT_TRUE(tap().Traced().empty());
  EXPECT_EQ(tap().Counts().matched, 0u);
  EXPECT_EQ(tap().trace_deadline(), 0u) << "the next packet need not read the clock";
}

TEST_P(Event, OneOfSoManyIsSent) {
  tpx_trace sampled = EventTap::Everything();
  sampled.every = 7;
  tap().Listen(sampled);
  for (uint16_t i = 0; i < 70; ++i) Lan(To(kDropped, static_cast<uint16_t>(1000 + i)));
  const std::vector<tpx_event> events = tap().Traced();
  ASSERT_EQ(events.size(), 10u);
  for (size_t i = 1; i < 10; ++i)
    EXPECT_EQ(ntohs(events[i].flow.sport), ntohs(events[i - 1].flow.sport) + 7) << "evenly";
  EXPECT_EQ(tap().Counts().matched, 70u);
}

TEST_P(Event, EachPartOfTheFilterIsAskedInTheKernel) {
  using Change = std::function<void(tpx_trace&)>;
  auto prefix = [this](const char* text, tpx_addr tpx_trace::*addr, tpx_addr tpx_trace::*mask) {
    return [=, this](tpx_trace& t) {
      const unsigned bits = v4() ? 120 : 64;
      t.*addr = Address(text).raw;
      for (unsigned i = 0; i < 4; ++i) {
        const unsigned set = std::min(32u, bits - std::min(bits, 32 * i));
        (t.*mask).w[i] = set == 0 ? 0 : htonl(~0u << (32 - set));
        (t.*addr).w[i] &= (t.*mask).w[i];
      }
    };
  };
  const uint16_t counter = CounterOf(kDropRule);
  const std::pair<Change, bool> cases[] = {
      {[](tpx_trace&) {}, true},
      {[](tpx_trace& t) { t.proto[0] = t.proto[1] = IPPROTO_UDP; }, true},
      {[](tpx_trace& t) { t.proto[0] = IPPROTO_TCP, t.proto[1] = IPPROTO_UDP; }, true},
      {[](tpx_trace& t) { t.proto[0] = t.proto[1] = IPPROTO_TCP; }, false},
      {[](tpx_trace& t) { t.sport = htons(kClientPort); }, true},
      {[](tpx_trace& t) { t.sport = htons(kDropped); }, false},
      {[](tpx_trace& t) { t.dport = htons(kDropped); }, true},
      {[](tpx_trace& t) { t.dport = htons(kClientPort); }, false},
      {[](tpx_trace& t) { t.ifindex = ProgRunner::kFirstDevice; }, true},
      {[](tpx_trace& t) { t.ifindex = ProgRunner::kOtherDevice; }, false},
      {[counter](tpx_trace& t) { t.counter = counter; }, true},
      {[counter](tpx_trace& t) { t.counter = counter + 1; }, false},
      {[](tpx_trace& t) { t.counter = TPX_MAX_COUNTERS; }, false},
      {[](tpx_trace& t) { t.reasons[0] = uint64_t{1} << TPX_R_RULE_DROP; }, true},
      {[](tpx_trace& t) { t.reasons[0] &= ~(uint64_t{1} << TPX_R_RULE_DROP); }, false},
      {prefix(f().client, &tpx_trace::src, &tpx_trace::src_mask), true},
      {prefix(f().server, &tpx_trace::src, &tpx_trace::src_mask), false},
      {prefix(f().server, &tpx_trace::dst, &tpx_trace::dst_mask), true},
      {prefix(f().client, &tpx_trace::dst, &tpx_trace::dst_mask), false}};
  for (size_t i = 0; i < std::size(cases); ++i) {
    tpx_trace trace = EventTap::Everything();
    cases[i].first(trace);
    tap().Listen(trace);
    Lan(To(kDropped));
    EXPECT_EQ(tap().Traced().size(), cases[i].second ? 1u : 0u) << "case " << i;
  }
}

TEST_P(Event, WhatFindsNoRoomIsCounted) {
  tap().Listen(EventTap::Everything());
  const Bytes frame = To(kDropped).Build();
  constexpr uint64_t kPackets = 20'000;
  for (uint64_t i = 0; i < kPackets; ++i) runner().RunFast(Hook::kLan, frame);
  const tpx_event_counts counts = tap().Counts();
  EXPECT_EQ(counts.matched, kPackets);
  EXPECT_EQ(counts.sent + counts.lost, kPackets);
  // A record has a header of 8 bytes.
  EXPECT_NEAR(static_cast<double>(counts.sent), TPX_TRACE_BYTES / (sizeof(tpx_event) + 8.0), 2);
  EXPECT_EQ(tap().Traced().size(), counts.sent);
  Lan(To(kDropped));
  EXPECT_EQ(tap().Traced().size(), 1u) << "there is room again";
}

TEST_P(Event, LookupsTellTheirs) {
  tap().Listen(EventTap::Everything());
  EXPECT_EQ(runner().Lookup(Flow(kDropped)).reason, TPX_R_LK_REFUSED);
  tpx_event event = One();
  EXPECT_EQ(event.reason, TPX_R_LK_REFUSED);
  EXPECT_EQ(event.hook, TPX_HOOK_LOOKUP);
  EXPECT_EQ(event.counter, CounterOf(kDropRule));
  EXPECT_TRUE(SameFlow(event.flow, Flow(kDropped)));
  EXPECT_EQ(event.length, 0u);
  EXPECT_EQ(runner().Lookup(Flow(kProxied)).reason, TPX_R_LK_STEERED);
  event = One();
  EXPECT_EQ(event.counter, CounterOf(kProxyRule));
  EXPECT_LT(event.worker, 2);
  EXPECT_EQ(runner().Lookup(FlowOf(Address(f().client), 1, Address(f().gateway), 2, kUdp)).reason,
            TPX_R_LK_OWN_ADDRESS);
  EXPECT_EQ(One().counter, TPX_NO_RULE);
}

}  // namespace
}  // namespace tpx::test
