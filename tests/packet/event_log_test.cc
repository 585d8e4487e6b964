// SPDX-License-Identifier: Apache-2.0
// Rules that say `log: sample`: their flows are sent to the proxy's log, as far as their share goes.
#include "support/event_tap.h"
#include "support/packet_fixture.h"

namespace tpx::test {
namespace {

constexpr uint16_t kLogged = 2000, kLoggedToo = 2001, kLoggedProxied = 2002, kQuiet = 2003;

class EventLog : public DatagramTest {
 protected:
  void SetUp() override {
    DatagramTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    auto logged = [](uint16_t port, tpx_action action) {
      policy::Rule rule = RuleFor({port}, action, TPX_FAIL_OPEN, {6, kUdp});
      rule.log = TPX_LOG_SAMPLE;
      return rule;
    };
    runner().Publish(
        PolicyOf({logged(kLogged, TPX_ACTION_DROP), logged(kLoggedToo, TPX_ACTION_DROP),
                  logged(kLoggedProxied, TPX_ACTION_PROXY), RuleFor({kQuiet}, TPX_ACTION_DROP)}));
    tap_ = std::make_unique<EventTap>(runner());
    tap_->ListenToLog();
  }

  EventTap& tap() { return *tap_; }
  void Send(uint16_t port, int count) {
    for (int i = 0; i < count; ++i) Lan(SynTo(port));
  }

 private:
  std::unique_ptr<EventTap> tap_;
};
TPX_BOTH_FAMILIES(EventLog);

TEST_P(EventLog, TheRulesThatSaySoAndNoOthers) {
  Send(kQuiet, 3);
  Send(kBypassed, 3);
  Lan(To(kQuiet));
  EXPECT_TRUE(tap().Logged().empty());
  Send(kLogged, 1);
  Lan(To(kLogged));
  const std::vector<tpx_event> events = tap().Logged();
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0].flow.proto, 6);
  EXPECT_EQ(events[1].flow.proto, kUdp);
  EXPECT_EQ(events[0].reason, TPX_R_RULE_DROP);
  EXPECT_EQ(events[0].skipped, 0u);
  EXPECT_TRUE(tap().Traced().empty()) << "nobody traces";
}

TEST_P(EventLog, AFlowIsLoggedOnce) {
  for (int i = 0; i < 5; ++i) Lan(To(kLoggedProxied));
  const std::vector<tpx_event> events = tap().Logged();
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].reason, TPX_R_RULE_PROXY);
  runner().Lookup(Flow(kLoggedProxied));
  EXPECT_TRUE(tap().Logged().empty());
}

TEST_P(EventLog, ARuleHasItsShareAndTheNextEventTellsWhatWasLeftOut) {
  Send(kLogged, TPX_LOG_BURST + 5);
  EXPECT_EQ(tap().Logged().size(), size_t{TPX_LOG_BURST});
  EXPECT_EQ(tap().Counts().log_skipped, 5u);
  Send(kLoggedToo, 1);
  EXPECT_EQ(tap().Logged().size(), 1u) << "each has its own share";
  tap().AgeLog(1000 / TPX_LOG_PER_SECOND);
  Send(kLogged, 2);
  const std::vector<tpx_event> events = tap().Logged();
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].skipped, 5u);
  EXPECT_EQ(tap().Counts().log_sent, TPX_LOG_BURST + 2u);
}

TEST_P(EventLog, WithoutAProxyNothingIsKeptAndAllIsCounted) {
  tap().ListenToLog(-1);
  Send(kLogged, 3);
  EXPECT_EQ(tap().log_deadline(), 0u);
  Send(kLogged, 1);
  EXPECT_TRUE(tap().Logged().empty());
  EXPECT_EQ(tap().Counts().log_lost, 4u);
  tap().ListenToLog();
  Send(kLogged, 1);
  const std::vector<tpx_event> events = tap().Logged();
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].skipped, 4u);
}

TEST_P(EventLog, NeitherListenerTakesTheOthersEvents) {
  tap().Listen(EventTap::Everything());
  Send(kLogged, 1);
  EXPECT_EQ(tap().Logged().size(), 1u);
  EXPECT_EQ(tap().Traced().size(), 1u);
  Send(kQuiet, 1);
  EXPECT_TRUE(tap().Logged().empty());
  EXPECT_EQ(tap().Traced().size(), 1u);
}

}  // namespace
}  // namespace tpx::test
