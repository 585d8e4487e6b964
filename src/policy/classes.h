// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <unordered_map>

#include "tpx_abi.h"

namespace tpx::policy {

inline void SetBit(tpx_bits& bits, size_t rule) {
  bits.word[rule / 64] |= uint64_t{1} << (rule % 64);
  bits.summary |= uint64_t{1} << (rule / 64);
}

inline void ClearBit(tpx_bits& bits, size_t rule) {
  bits.word[rule / 64] &= ~(uint64_t{1} << (rule % 64));
  if (bits.word[rule / 64] == 0) bits.summary &= ~(uint64_t{1} << (rule / 64));
}

inline bool HasBit(const tpx_bits& bits, size_t rule) {
  return (bits.word[rule / 64] >> (rule % 64) & 1) != 0;
}

// Gives each distinct set of rules a number, and puts the set into the tables.
class Classes {
 public:
  explicit Classes(tpx_tables& tables) : tables_(tables) {}

  uint32_t Number(const tpx_bits& bits) {
    auto [entry, fresh] = numbers_.emplace(bits, static_cast<uint32_t>(numbers_.size()));
    if (fresh && entry->second < TPX_MAX_CLASSES) tables_.bits[entry->second] = bits;
    return entry->second;
  }
  // Numbers beyond the table were given; the tables are void.
  bool overflowed() const { return numbers_.size() > TPX_MAX_CLASSES; }
  const tpx_bits& bits(uint32_t number) const { return tables_.bits[number]; }

 private:
  struct Hash {
    size_t operator()(const tpx_bits& bits) const {
      uint64_t hash = bits.summary;
      for (uint64_t word : bits.word) hash = (hash ^ word) * 0x9e3779b97f4a7c15u, hash ^= hash >> 29;
      return hash;
    }
  };
  struct Equal {
    bool operator()(const tpx_bits& a, const tpx_bits& b) const { return memcmp(&a, &b, sizeof(a)) == 0; }
  };

  tpx_tables& tables_;
  std::unordered_map<tpx_bits, uint32_t, Hash, Equal> numbers_;
};

}  // namespace tpx::policy
