// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "tpx/data/acceptor.h"
#include "tpx/data/descriptors.h"
#include "tpx/data/shared_slot.h"

namespace tpx::data {

// Decides whether the worker takes TCP connections, and says so in its state.
//
// FULL begins at the session limit, or when the system gives no descriptor or
// memory. BPF then sends no new TCP flow here, but UDP as ever, which has limits
// of its own (UdpTable); what was in a handshake by then waits in the queue. FULL
// ends below 15/16 of the limit, or when accepting works again, which is tried
// every kRetryMs. What has waited for kPatienceMs is reset, so that no client
// hangs.
class Admission {
 public:
  static constexpr uint64_t kRetryMs = 100;
  static constexpr uint64_t kPatienceMs = 1000;
  static constexpr uint32_t kTurnAccepts = 64;

  // `acceptor`, `slot` and `descriptors` must outlive it.
  Admission(Acceptor& acceptor, SharedSlot& slot, const Descriptors& descriptors, uint32_t max_sessions);

  void Start();                          // SERVING
  void BeginDraining();                  // DRAINING from now on, full or not
  void OnWaiting() { waiting_ = true; }  // poll_fd became readable

  // Accepts what may be accepted, given the sessions that are open now.
  void Run(uint32_t open_sessions, uint64_t now_ms, AcceptSink& sink);

  bool idle() const { return !waiting_; }  // nothing to do before NextTime
  uint64_t NextTime() const;               // in the clock of now_ms

 private:
  void OnShortage(uint64_t now_ms);
  void BecomeFull(uint64_t now_ms);
  void BecomeServing();
  void RunFull(uint32_t open_sessions, uint64_t now_ms);
  uint32_t Room(uint32_t open_sessions) const;

  Acceptor& acceptor_;
  SharedSlot& slot_;
  const Descriptors& descriptors_;
  const uint32_t max_sessions_;
  bool waiting_ = false;
  bool full_ = false;
  bool draining_ = false;
  bool shortage_ = false;       // of descriptors or memory, since full_since_ms_
  uint64_t full_since_ms_ = 0;  // or since the shortage began
  uint64_t next_ms_ = 0;        // of the next look while full
};

}  // namespace tpx::data
