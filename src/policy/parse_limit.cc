// SPDX-License-Identifier: Apache-2.0
#include "policy/sections.h"

namespace tpx::policy {
namespace {

constexpr uint32_t kMaxFlows = 1'000'000, kMaxPenaltySeconds = 3'600;

}  // namespace

void ReadLimit(Diagnostics& out, const YamlNode& node, RateLimit& limit) {
  Field rate = UintField(out, "rate", limit.per_second, 1, kMaxFlows);
  rate.required = true;
  ReadMap(out, node, "limit",
          {rate, UintField(out, "burst", limit.burst, 1, kMaxFlows),
           SecondsField(out, "penalty", limit.penalty_s, kMaxPenaltySeconds)});
  if (limit.burst == 0) limit.burst = limit.per_second;
}

}  // namespace tpx::policy
