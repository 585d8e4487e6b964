// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace tpx::data {

// Whether a worker's thread computes for most of the time, by the last window in which that was looked at.
// The kernel's work in its name counts, also within a wait: there io_uring receives.
class WorkShare {
 public:
  static constexpr uint64_t kWindowNs = 16'000'000;  // or longer, where it sleeps meanwhile

  bool IsDue(uint64_t now_ns) const { return now_ns - begin_ns_ >= kWindowNs; }
  // `cpu_ns`: what the thread has computed since it began.
  void Look(uint64_t now_ns, uint64_t cpu_ns) {
    busy_ = begin_ns_ != 0 && cpu_ns - cpu_ns_ > (now_ns - begin_ns_) / 4 * 3;
    begin_ns_ = now_ns;
    cpu_ns_ = cpu_ns;
  }
  bool busy() const { return busy_; }

 private:
  uint64_t begin_ns_ = 0;
  uint64_t cpu_ns_ = 0;
  bool busy_ = false;
};

}  // namespace tpx::data
