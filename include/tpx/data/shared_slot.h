// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "tpx_abi.h"

namespace tpx::data {

// A worker's slot of the shared page. One thread writes it; BPF programs and
// observers read it.
//
// What is written is seen in the order of writing, by readers that load with
// acquire. So the gauge of sessions tells when counts are complete (see struct
// tpx_worker): what ended a session is counted before the gauge goes down.
//
// A new process takes a slot over by writing its own pid. From then on the old
// one writes to a private copy, so that it can finish its sessions without
// disturbing the successor.
class SharedSlot {
 public:
  explicit SharedSlot(tpx_worker* shared) : shared_(shared), target_(shared) {}
  SharedSlot(const SharedSlot&) = delete;
  SharedSlot& operator=(const SharedSlot&) = delete;

  // Takes the slot for this process and zeroes its gauges.
  void Claim();
  // Alive until `deadline_ns` of CLOCK_MONOTONIC. Notices a successor.
  void RenewLease(uint64_t deadline_ns);
  void SetState(tpx_worker_state state);
  // What tc goes by when it may choose between workers.
  void SetRest(tpx_worker_rest rest);
  // Not alive any more, nothing more to come.
  void Release();

  void Add(tpx_worker_counter counter, uint64_t n = 1);
  void Set(tpx_worker_counter gauge, uint64_t value);
  uint64_t Get(tpx_worker_counter counter) const;
  // Until a successor was noticed.
  bool is_ours() const { return target_ == shared_; }

 private:
  void NoticeSuccessor();

  tpx_worker* const shared_;
  tpx_worker* target_;
  uint32_t pid_ = 0;
  tpx_worker private_{};
};

}  // namespace tpx::data
