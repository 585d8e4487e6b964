// SPDX-License-Identifier: Apache-2.0
// Every reason of tpx_reasons.def must have been met when all tests have run.
#include <gtest/gtest.h>

#include "support/packet_fixture.h"

namespace tpx::test {
namespace {

class ReasonCoverage : public ::testing::Environment {
 public:
  void TearDown() override {
    const ::testing::UnitTest& tests = *::testing::UnitTest::GetInstance();
    bool all = tests.test_to_run_count() == tests.total_test_count();
    if (!all || !ProgRunner::Privileged()) return;
    for (int reason = 0; reason < TPX_REASON_COUNT; ++reason) {
      // The kernel runs programs of cgroups for processes alone: tests/netns/local_output_test.py meets
      // theirs.
      if (ReasonName(reason).starts_with("LO_")) continue;
      EXPECT_TRUE(SharedRunner().seen().test(static_cast<size_t>(reason)))
          << "no packet test meets " << ReasonName(reason);
    }
  }
};

const ::testing::Environment* const kCoverage = ::testing::AddGlobalTestEnvironment(new ReasonCoverage);

TEST(Reasons, EachHasOneEffectAndHook) {
  ASSERT_NE(kCoverage, nullptr);
  for (int reason = 0; reason < TPX_REASON_COUNT; ++reason) {
    EXPECT_FALSE(ReasonName(reason).empty());
    const bool elsewhere = ReasonName(reason).starts_with("LK_") || ReasonName(reason).starts_with("LO_");
    EXPECT_EQ(IsTcReason(reason), !elsewhere) << ReasonName(reason);
  }
}

}  // namespace
}  // namespace tpx::test
