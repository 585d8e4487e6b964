// SPDX-License-Identifier: Apache-2.0
#include "tpx/data/gathering.h"

#include <gtest/gtest.h>

namespace tpx::data {
namespace {

constexpr uint64_t kNow = 1'000'000;

TEST(Gathering, IsKeptUpWhileItMakesTrains) {
  Gathering gathering;
  EXPECT_FALSE(gathering.on());
  gathering.OnTurn(1, 1, kNow);  // the trial
  EXPECT_TRUE(gathering.on());
  for (uint64_t turn = 1; turn < 1000; ++turn) {
    gathering.OnTurn(8, 4, kNow + turn);
    ASSERT_TRUE(gathering.on());
  }
}

TEST(Gathering, EndsWithTheFirstTurnThatGainedNothing) {
  Gathering gathering;
  gathering.OnTurn(1, 1, kNow);
  gathering.OnTurn(8, 5, kNow);  // many flows
  EXPECT_FALSE(gathering.on());
  gathering.OnTurn(1, 1, kNow + 1000);
  ASSERT_TRUE(gathering.on());
  gathering.OnTurn(0, 0, kNow + 1000);  // silence
  EXPECT_FALSE(gathering.on());
}

TEST(Gathering, IsTriedSeldomWhereItGainsNothing) {
  Gathering gathering;
  uint32_t trials = 0;
  for (uint64_t us = 0; us < 1'000'000; us += 50) {
    gathering.OnTurn(1, 1, kNow + us / 1000);
    trials += gathering.on();
  }
  EXPECT_GT(trials, 80u);
  EXPECT_LE(trials, 100u);  // of 20,000
}

TEST(Gathering, IsNotTriedWithoutDatagrams) {
  Gathering gathering;
  gathering.OnTurn(0, 0, kNow);
  EXPECT_FALSE(gathering.on());
}

}  // namespace
}  // namespace tpx::data
