// SPDX-License-Identifier: Apache-2.0
#include "tpx/data/shared_slot.h"

#include <unistd.h>

#include <atomic>

namespace tpx::data {
namespace {

template <typename T, typename V>
void Store(T& field, V value) {
  std::atomic_ref<T>(field).store(static_cast<T>(value), std::memory_order_release);
}

template <typename T>
T Load(T& field) {
  return std::atomic_ref<T>(field).load(std::memory_order_relaxed);
}

}  // namespace

void SharedSlot::Claim() {
  pid_ = static_cast<uint32_t>(getpid());
  Store(shared_->pid, pid_);
  SetRest(TPX_WORKER_ASLEEP);
  Set(TPX_C_SESSIONS, 0);
  Set(TPX_C_PIPES, 0);
  Set(TPX_C_UDP_SESSIONS, 0);
  Set(TPX_C_UDP_REPLY_SOCKETS, 0);
  Set(TPX_C_UDP_TRANSLATED, 0);
}

void SharedSlot::NoticeSuccessor() {
  if (target_ == shared_ && Load(shared_->pid) != pid_) target_ = &private_;
}

void SharedSlot::RenewLease(uint64_t deadline_ns) {
  NoticeSuccessor();
  Store(target_->deadline_ns, deadline_ns);
}

void SharedSlot::SetState(tpx_worker_state state) {
  NoticeSuccessor();
  Store(target_->state, state);
}

void SharedSlot::SetRest(tpx_worker_rest rest) { Store(target_->rest, rest); }

void SharedSlot::Release() {
  SetState(TPX_WORKER_ABSENT);
  RenewLease(0);
  target_ = &private_;
}

void SharedSlot::Add(tpx_worker_counter counter, uint64_t n) {
  auto& field = target_->counter[counter];
  Store(field, Load(field) + n);
}

void SharedSlot::Set(tpx_worker_counter gauge, uint64_t value) { Store(target_->counter[gauge], value); }

uint64_t SharedSlot::Get(tpx_worker_counter counter) const { return Load(target_->counter[counter]); }

}  // namespace tpx::data
