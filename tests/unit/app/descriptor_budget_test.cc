// SPDX-License-Identifier: Apache-2.0
#include "app/descriptor_budget.h"

#include <gtest/gtest.h>

namespace tpx::app {
namespace {

DescriptorWishes Wishes(uint32_t workers, uint32_t sessions, uint32_t udp_sessions) {
  return {.workers = workers,
          .sessions = sessions,
          .udp_sessions = udp_sessions,
          .pipes = 64,
          .reply_sockets = 512};
}

TEST(DescriptorBudget, GivesWhatWasAskedForWhenThereIsRoom) {
  const DescriptorBudget budget = DivideDescriptors(1'000'000, Wishes(4, 8000, 4000));
  EXPECT_EQ(budget.sessions, 2000u);
  EXPECT_EQ(budget.udp_sessions, 1000u);
  EXPECT_EQ(budget.pipes, 64u);
  EXPECT_EQ(budget.reply_sockets, 512u);
  EXPECT_FALSE(budget.lowered);
}

TEST(DescriptorBudget, LowersTheSessionsToTheLimit) {
  for (const auto& [sessions, udp_sessions] : {std::pair{50'000u, 0u}, std::pair{0u, 50'000u}}) {
    const DescriptorBudget budget = DivideDescriptors(20'000, Wishes(2, sessions, udp_sessions));
    EXPECT_TRUE(budget.lowered);
    EXPECT_LE(2 * (budget.descriptors + 2 * budget.pipes + budget.reply_sockets), 20'000u);
    EXPECT_GE(budget.sessions * 2, 8'000u);
    EXPECT_GE(budget.udp_sessions * 2, 15'000u);
    EXPECT_LT(budget.udp_sessions, budget.descriptors * 8 / 9) << "something is left for the other kind";
    EXPECT_LT(2 * budget.sessions, budget.descriptors * 8 / 9);
  }
}

TEST(DescriptorBudget, WithoutAWishEitherKindMayTakeMostOfWhatThereIs) {
  const DescriptorBudget budget = DivideDescriptors(20'000, Wishes(2, 0, 0));
  EXPECT_FALSE(budget.lowered);
  EXPECT_GE(budget.sessions * 2, 8'000u);
  EXPECT_GE(budget.udp_sessions * 2, 15'000u);
  EXPECT_LT(2 * budget.sessions, budget.descriptors);
  EXPECT_LT(budget.udp_sessions, budget.descriptors);
}

TEST(DescriptorBudget, LeavesAtLeastOneSessionOfEachKind) {
  const DescriptorBudget budget = DivideDescriptors(16, Wishes(2, 100, 100));
  EXPECT_EQ(budget.sessions, 1u);
  EXPECT_EQ(budget.udp_sessions, 1u);
  EXPECT_EQ(budget.pipes, 0u);
  EXPECT_GE(budget.descriptors, 3u);
  EXPECT_TRUE(budget.lowered);
}

}  // namespace
}  // namespace tpx::app
