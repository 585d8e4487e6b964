// SPDX-License-Identifier: Apache-2.0
#include "tpx/data/icmp_budget.h"

#include "absl/hash/hash.h"

namespace tpx::data {

void IcmpBudget::Refill(uint64_t now_ms) {
  if (now_ms - window_ms_ < 1000) return;
  window_ms_ = now_ms;
  left_ = kPerSecond;
  for (uint8_t& tokens : tokens_) tokens += tokens < kBurst;
}

bool IcmpBudget::Take(const IpAddr& client, bool own) {
  uint8_t& tokens = tokens_[absl::HashOf(client) % kBuckets];
  if (left_ == 0 || (own && tokens == 0)) return false;
  --left_;
  if (own) --tokens;
  return true;
}

}  // namespace tpx::data
