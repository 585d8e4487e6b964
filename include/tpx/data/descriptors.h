// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace tpx::data {

// The descriptors that a worker's sessions may hold, TCP (two each) and UDP (one
// each) together. Each kind has a limit of its own below the sum, so neither
// starves the other.
class Descriptors {
 public:
  explicit Descriptors(uint32_t count) : left_(count) {}
  uint32_t left() const { return left_; }
  bool Take(uint32_t n) {
    if (left_ < n) return false;
    left_ -= n;
    return true;
  }
  void Give(uint32_t n) { left_ += n; }

 private:
  uint32_t left_;
};

}  // namespace tpx::data
