// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "policy/classes.h"
#include "tpx/policy/config.h"

namespace tpx::policy {

// Addresses as numbers: the dotted part of IPv4, all of IPv6.
using V4Key = uint32_t;
__extension__ using V6Key = unsigned __int128;

// From `first` to the next range's, or to the last address, all have one class.
template <typename Key>
struct Range {
  Key first;
  uint16_t number;  // of the class
};

// Neighbours differ in class; the first range begins at address 0.
struct AddressRanges {
  std::vector<Range<V4Key>> v4;
  std::vector<Range<V6Key>> v6;  // for addresses that are not IPv4
};

// Divides the addresses of one dimension by the rules that accept them.
// `miss_class` gets the class of those that no prefix covers. The ranges are
// void where the classes overflow. `key` is the member's.
AddressRanges MakeRanges(const Policy& policy, std::vector<Prefix> Rule::*member, MatchKey key,
                         Classes& classes, uint32_t& miss_class);

}  // namespace tpx::policy
