// SPDX-License-Identifier: Apache-2.0
#include "tpx/data/icmp_budget.h"

#include <gtest/gtest.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

namespace tpx::data {
namespace {

IpAddr Client(uint32_t n) {
  return *IpAddr::Parse("192.0." + std::to_string(n / 256) + "." + std::to_string(n % 256));
}

constexpr uint64_t kNow = 1'000'000;

uint32_t Taken(IcmpBudget& budget, const IpAddr& client, bool own, uint32_t tries, uint64_t now_ms = kNow) {
  uint32_t taken = 0;
  while (tries-- > 0) taken += budget.Take(client, own, now_ms);
  return taken;
}

TEST(IcmpBudget, OneClientGetsAFewAtOnceAndThenOneEachSecond) {
  IcmpBudget budget;
  EXPECT_EQ(Taken(budget, Client(1), true, 100), IcmpBudget::kBurst);
  for (uint64_t now = kNow + 1000; now < kNow + 4000; now += 1000) {
    EXPECT_EQ(Taken(budget, Client(1), true, 100, now), 1u);
  }
  EXPECT_FALSE(budget.Take(Client(1), true, kNow + 3999));
  EXPECT_EQ(Taken(budget, Client(1), true, 100, kNow + 60'000), IcmpBudget::kBurst);
}

TEST(IcmpBudget, WhatOthersHaveLimitedIsLimitedOnlyInAll) {
  IcmpBudget budget;
  EXPECT_EQ(Taken(budget, Client(1), false, 5000), IcmpBudget::kPerSecond);
  EXPECT_FALSE(budget.Take(Client(2), true, kNow));
  EXPECT_TRUE(budget.Take(Client(2), true, kNow + 1));
  EXPECT_EQ(Taken(budget, Client(1), false, 5000, kNow + 10'000), IcmpBudget::kPerSecond);
}

TEST(IcmpBudget, OneClientDoesNotUseUpWhatIsForOthers) {
  IcmpBudget budget;
  Taken(budget, Client(0), true, 5000);
  uint32_t served = 0;
  for (uint32_t n = 1; n <= 100; ++n) served += budget.Take(Client(n), true, kNow);
  EXPECT_GE(served, 99u);
}

TEST(IcmpBudget, ManyThreadsTogetherGetNoMore) {
  IcmpBudget budget;
  std::atomic<uint32_t> own = 0, others = 0;
  std::vector<std::thread> threads;
  for (int n = 0; n < 8; ++n) {
    threads.emplace_back([&] {
      own += Taken(budget, Client(1), true, 1000);
      others += Taken(budget, Client(2), false, 1000);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(own, IcmpBudget::kBurst);
  EXPECT_EQ(own + others, IcmpBudget::kPerSecond);
}

}  // namespace
}  // namespace tpx::data
