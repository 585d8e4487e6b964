// SPDX-License-Identifier: Apache-2.0
#include "tpx/data/deadline_list.h"

#include <gtest/gtest.h>

namespace tpx::data {
namespace {

TEST(DeadlineList, ExpiresInTheOrderOfAdding) {
  DeadlineList list(100);
  DeadlineHook a, b;
  list.Add(a, 1000);
  list.Add(b, 1050);
  EXPECT_EQ(list.NextExpiry(), 1100u);
  EXPECT_EQ(list.Expired(1099), nullptr);
  EXPECT_EQ(list.Expired(1100), &a);
  DeadlineList::Remove(a);
  EXPECT_EQ(list.Expired(1149), nullptr);
  EXPECT_EQ(list.Expired(1150), &b);
}

TEST(DeadlineList, MovesATouchedEntryBack) {
  DeadlineList list(1600);
  DeadlineHook a, b;
  list.Add(a, 0);
  list.Add(b, 0);
  list.Touch(a, 1000);
  EXPECT_EQ(list.Expired(1600), &b);
  DeadlineList::Remove(b);
  EXPECT_EQ(list.NextExpiry(), 2600u);
}

TEST(DeadlineList, DoesNotMoveAnEntryTouchedAMomentAgo) {
  DeadlineList list(60'000);
  DeadlineHook a;
  list.Add(a, 0);
  list.Touch(a, 999);
  EXPECT_EQ(list.NextExpiry(), 60'000u);
  list.Touch(a, 1001);
  EXPECT_EQ(list.NextExpiry(), 61'001u);
}

TEST(DeadlineList, TakesAnEntryOffTheListWhereItWas) {
  DeadlineList first(100), second(200);
  DeadlineHook a;
  first.Add(a, 0);
  second.Add(a, 0);
  EXPECT_EQ(first.NextExpiry(), DeadlineList::kNever);
  EXPECT_EQ(second.Expired(200), &a);
  DeadlineList::Remove(a);
  DeadlineList::Remove(a);
  EXPECT_EQ(second.NextExpiry(), DeadlineList::kNever);
}

TEST(DeadlineList, NeverExpiresWithoutATimeout) {
  DeadlineList list(0);
  DeadlineHook a;
  list.Add(a, 0);
  list.Touch(a, 5);
  EXPECT_EQ(list.Expired(UINT64_MAX - 1), nullptr);
  EXPECT_EQ(list.NextExpiry(), DeadlineList::kNever);
}

}  // namespace
}  // namespace tpx::data
