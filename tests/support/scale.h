// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>

namespace tpx::test {

// `count` times TPX_TEST_SCALE (1 when it is not set), at least 1: how much of a
// random test is run.
inline uint32_t Scaled(uint32_t count) {
  const char* text = std::getenv("TPX_TEST_SCALE");
  double scale = text != nullptr ? std::strtod(text, nullptr) : 1;
  return std::max(1u, static_cast<uint32_t>(count * scale));
}

}  // namespace tpx::test
