// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace tpx::data {

class DeadlineList;

// Base of what a DeadlineList holds; on one list at most.
struct DeadlineHook {
  DeadlineHook* previous = nullptr;
  DeadlineHook* next = nullptr;
  DeadlineList* list = nullptr;
  uint64_t stamp_ms = 0;
};

// Everything that waits for the same length of time. Because the time is the
// same for all, the list is in order of expiry by itself: adding, touching and
// finding the next one are O(1), without a timer or a heap.
//
// Touching moves an entry only after 1/16 of the timeout, at most a second, so
// an entry may expire that much early.
class DeadlineList {
 public:
  static constexpr uint64_t kNever = UINT64_MAX;

  // 0: nothing ever expires.
  explicit DeadlineList(uint32_t timeout_ms);
  DeadlineList(const DeadlineList&) = delete;
  DeadlineList& operator=(const DeadlineList&) = delete;

  // Starts the time of `hook` anew, here; takes it off the list where it was.
  void Add(DeadlineHook& hook, uint64_t now_ms);
  void Touch(DeadlineHook& hook, uint64_t now_ms);
  // Whether touching it would move it.
  bool IsWorthTouching(const DeadlineHook& hook, uint64_t now_ms) const {
    return now_ms > hook.stamp_ms + granularity_ms_;
  }
  static void Remove(DeadlineHook& hook);

  // The entry that expired first, still on the list, or nullptr.
  DeadlineHook* Expired(uint64_t now_ms) const;
  DeadlineHook* Oldest() const;  // first in order of expiry, or nullptr
  DeadlineHook* Newest() const;  // last, or nullptr
  DeadlineHook* After(const DeadlineHook& hook) const { return hook.next == &ends_ ? nullptr : hook.next; }
  uint64_t NextExpiry() const;  // in the clock of now_ms, or kNever
  uint32_t size() const { return size_; }

 private:
  const uint32_t timeout_ms_;
  const uint32_t granularity_ms_;
  DeadlineHook ends_;  // ring: next is the oldest
  uint32_t size_ = 0;
};

}  // namespace tpx::data
