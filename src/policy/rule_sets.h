// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include "policy/classes.h"
#include "tpx/policy/config.h"

namespace tpx::policy {

// An empty list accepts everything; else what is listed, or what is not.
inline bool Accepts(const Rule& rule, MatchKey key, bool no_list, bool is_listed) {
  return no_list || is_listed != rule.negates(key);
}

// The rules for which `accepts` holds.
template <typename Test>
tpx_bits RulesThat(const Policy& policy, Test accepts) {
  tpx_bits bits{};
  for (size_t i = 0; i < policy.rules.size(); ++i) {
    if (accepts(policy.rules[i])) SetBit(bits, i);
  }
  return bits;
}

// Takes a rule that names a value into the set of those that accept it, or out of it.
inline void SetListed(tpx_bits& bits, const Rule& rule, size_t number, MatchKey key, bool is_listed = true) {
  is_listed != rule.negates(key) ? SetBit(bits, number) : ClearBit(bits, number);
}

}  // namespace tpx::policy
