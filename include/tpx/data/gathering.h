// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace tpx::data {

// Whether the loop shall let datagrams gather for a moment before it takes them
// in. A worker that wakes for each one sends each one by itself; when it wakes
// for several of a flow, they leave as one train for little more than the cost
// of one. It is worth the wait only then: request and answer, or many flows of
// few datagrams, would but be late. So it is tried now and then, and kept up
// while it makes trains, as network cards adapt the moderation of interrupts.
class Gathering {
 public:
  static constexpr uint64_t kTimeNs = 50'000;    // of one wait
  static constexpr uint32_t kCompletions = 64;   // that end it before
  static constexpr uint64_t kTrialEveryMs = 10;  // while it is not worth it: for 1 in 200 datagrams

  // What came in one turn, and how many sends were made of it.
  void OnTurn(uint32_t received, uint32_t sent, uint64_t now_ms);
  bool on() const { return on_; }

 private:
  bool on_ = false;
  uint64_t next_trial_ms_ = 0;
};

}  // namespace tpx::data
