// SPDX-License-Identifier: Apache-2.0
#include "tpx/data/icmp_budget.h"

#include <algorithm>

#include "absl/hash/hash.h"

namespace tpx::data {

constexpr uint64_t kSecondMs = 1000;

bool IcmpBudget::Fill(Bucket& bucket, uint64_t each_ms, uint64_t capacity_ms, uint64_t now_ms) {
  uint64_t empty_at = bucket.load(std::memory_order_relaxed);
  uint64_t after = 0;
  do {
    after = std::max(empty_at, now_ms) + each_ms;
    if (after > now_ms + capacity_ms) return false;
  } while (!bucket.compare_exchange_weak(empty_at, after, std::memory_order_relaxed));
  return true;
}

bool IcmpBudget::Take(const IpAddr& client, bool own, uint64_t now_ms) {
  Bucket& bucket = clients_[absl::HashOf(client) % kBuckets];
  if (own && !Fill(bucket, kSecondMs, kBurst * kSecondMs, now_ms)) return false;
  return Fill(all_, kSecondMs / kPerSecond, kSecondMs, now_ms);
}

}  // namespace tpx::data
