// SPDX-License-Identifier: Apache-2.0
#include "tpx/data/deadline_list.h"

#include <algorithm>

namespace tpx::data {

DeadlineList::DeadlineList(uint32_t timeout_ms)
    : timeout_ms_(timeout_ms), granularity_ms_(std::min<uint32_t>(1000, timeout_ms / 16)) {
  ends_.previous = ends_.next = &ends_;
}

void DeadlineList::Add(DeadlineHook& hook, uint64_t now_ms) {
  Remove(hook);
  hook.list = this;
  hook.stamp_ms = now_ms;
  hook.previous = ends_.previous;
  hook.next = &ends_;
  hook.previous->next = hook.next->previous = &hook;
  ++size_;
}

void DeadlineList::Touch(DeadlineHook& hook, uint64_t now_ms) {
  if (IsWorthTouching(hook, now_ms)) Add(hook, now_ms);
}

void DeadlineList::Remove(DeadlineHook& hook) {
  if (hook.list == nullptr) return;
  --hook.list->size_;
  hook.previous->next = hook.next;
  hook.next->previous = hook.previous;
  hook.previous = hook.next = nullptr;
  hook.list = nullptr;
}

DeadlineHook* DeadlineList::Expired(uint64_t now_ms) const {
  return NextExpiry() <= now_ms ? ends_.next : nullptr;
}

DeadlineHook* DeadlineList::Oldest() const { return ends_.next == &ends_ ? nullptr : ends_.next; }

DeadlineHook* DeadlineList::Newest() const { return ends_.previous == &ends_ ? nullptr : ends_.previous; }

uint64_t DeadlineList::NextExpiry() const {
  if (timeout_ms_ == 0 || ends_.next == &ends_) return kNever;
  return ends_.next->stamp_ms + timeout_ms_;
}

}  // namespace tpx::data
