// SPDX-License-Identifier: Apache-2.0
#include "app/descriptor_budget.h"

#include <gtest/gtest.h>

namespace tpx::app {
namespace {

TEST(DescriptorBudget, GivesWhatWasAskedForWhenThereIsRoom) {
  DescriptorBudget budget = DivideDescriptors(1'000'000, 4, 8000, 64);
  EXPECT_EQ(budget.sessions_per_worker, 2000u);
  EXPECT_EQ(budget.pipes_per_worker, 64u);
  EXPECT_FALSE(budget.lowered);
}

TEST(DescriptorBudget, LowersTheSessionsToTheLimit) {
  DescriptorBudget budget = DivideDescriptors(20'000, 2, 50'000, 64);
  EXPECT_TRUE(budget.lowered);
  uint32_t sessions = budget.sessions_per_worker * 2;
  EXPECT_LE(DescriptorsFor(2, sessions, budget.pipes_per_worker), 20'000u);
  EXPECT_GE(sessions, 9'000u);
}

TEST(DescriptorBudget, WithoutAWishTakesAllThereIsAndIsNotLowered) {
  DescriptorBudget budget = DivideDescriptors(1024, 1, 0, 64);
  EXPECT_FALSE(budget.lowered);
  EXPECT_GT(budget.sessions_per_worker, 300u);
  EXPECT_LE(DescriptorsFor(1, budget.sessions_per_worker, budget.pipes_per_worker), 1024u);
}

TEST(DescriptorBudget, LeavesAtLeastOneSession) {
  DescriptorBudget budget = DivideDescriptors(16, 2, 100, 64);
  EXPECT_EQ(budget.sessions_per_worker, 1u);
  EXPECT_EQ(budget.pipes_per_worker, 0u);
  EXPECT_TRUE(budget.lowered);
}

}  // namespace
}  // namespace tpx::app
