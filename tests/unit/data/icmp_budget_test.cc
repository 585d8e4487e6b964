// SPDX-License-Identifier: Apache-2.0
#include "tpx/data/icmp_budget.h"

#include <gtest/gtest.h>

#include <string>

namespace tpx::data {
namespace {

IpAddr Client(uint32_t n) {
  return *IpAddr::Parse("192.0." + std::to_string(n / 256) + "." + std::to_string(n % 256));
}

uint32_t Taken(IcmpBudget& budget, const IpAddr& client, bool own, uint32_t tries) {
  uint32_t taken = 0;
  while (tries-- > 0) taken += budget.Take(client, own);
  return taken;
}

TEST(IcmpBudget, OneClientGetsAFewAtOnceAndThenOneEachSecond) {
  IcmpBudget budget;
  EXPECT_EQ(Taken(budget, Client(1), true, 100), IcmpBudget::kBurst);
  for (uint64_t now = 1000; now < 4000; now += 1000) {
    budget.Refill(now);
    EXPECT_EQ(Taken(budget, Client(1), true, 100), 1u);
  }
  budget.Refill(3999);
  EXPECT_FALSE(budget.Take(Client(1), true));
}

TEST(IcmpBudget, WhatOthersHaveLimitedIsLimitedOnlyInAll) {
  IcmpBudget budget;
  EXPECT_EQ(Taken(budget, Client(1), false, 5000), IcmpBudget::kPerSecond);
  EXPECT_FALSE(budget.Take(Client(2), true));
  budget.Refill(1000);
  EXPECT_TRUE(budget.Take(Client(2), true));
}

TEST(IcmpBudget, OneClientDoesNotUseUpWhatIsForOthers) {
  IcmpBudget budget;
  Taken(budget, Client(0), true, 5000);
  uint32_t served = 0;
  for (uint32_t n = 1; n <= 100; ++n) served += budget.Take(Client(n), true);
  EXPECT_GE(served, 99u);
}

}  // namespace
}  // namespace tpx::data
