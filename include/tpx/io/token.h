// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace tpx::io {

// Names the request that a completion belongs to, in the 64 bits that the ring
// carries. Holds an index and never a pointer or a descriptor: a completion
// that arrives after its object has gone finds another generation and is
// ignored.
struct Token {
  uint32_t index = 0;
  uint32_t generation = 0;  // the low 24 bits are kept
  uint8_t kind = 0;

  static constexpr uint32_t kGenerationMask = (1U << 24) - 1;

  constexpr uint64_t Pack() const {
    return static_cast<uint64_t>(index) << 32 | static_cast<uint64_t>(generation & kGenerationMask) << 8 |
           kind;
  }
  static constexpr Token Unpack(uint64_t packed) {
    return {.index = static_cast<uint32_t>(packed >> 32),
            .generation = static_cast<uint32_t>(packed >> 8) & kGenerationMask,
            .kind = static_cast<uint8_t>(packed)};
  }
  friend bool operator==(const Token&, const Token&) = default;
};

}  // namespace tpx::io
