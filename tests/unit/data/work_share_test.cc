// SPDX-License-Identifier: Apache-2.0
#include "tpx/data/work_share.h"

#include <gtest/gtest.h>

namespace tpx::data {
namespace {

constexpr uint64_t kBegin = 1'000'000'000, kWindow = WorkShare::kWindowNs;

TEST(WorkShare, BusyIsWhoComputesForMoreThanThreeQuartersOfTheTime) {
  WorkShare work;
  work.Look(kBegin, 900'000'000);
  EXPECT_FALSE(work.busy()) << "nobody has looked before";
  EXPECT_FALSE(work.IsDue(kBegin + kWindow - 1));
  ASSERT_TRUE(work.IsDue(kBegin + kWindow));
  work.Look(kBegin + kWindow, 900'000'000 + kWindow / 4 * 3 + 1);
  EXPECT_TRUE(work.busy());
  work.Look(kBegin + 2 * kWindow, 900'000'000 + 2 * (kWindow / 4 * 3));
  EXPECT_FALSE(work.busy());
}

TEST(WorkShare, OneLongSleepIsEnough) {
  WorkShare work;
  work.Look(kBegin, 0);
  work.Look(kBegin + kWindow, kWindow);
  ASSERT_TRUE(work.busy());
  work.Look(kBegin + 10 * kWindow, 2 * kWindow);
  EXPECT_FALSE(work.busy());
}

}  // namespace
}  // namespace tpx::data
