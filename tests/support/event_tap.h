// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "support/prog_runner.h"
#include "tpx_event.h"

struct ring_buffer;

namespace tpx::test {

// The two listeners of tpx_event.h, neither of which listens at first nor after it.
class EventTap {
 public:
  explicit EventTap(const ProgRunner& runner);
  ~EventTap();
  EventTap(const EventTap&) = delete;
  EventTap& operator=(const EventTap&) = delete;

  // A trace of everything, for an hour.
  static tpx_trace Everything();
  void Listen(const tpx_trace& trace, int64_t lease_ms = 3'600'000);
  void ListenToLog(int64_t lease_ms = 3'600'000);
  // In order; the filter stays.
  void Leave();
  // 0: nobody listens.
  uint64_t trace_deadline() const { return *trace_deadline_; }
  uint64_t log_deadline() const { return *log_deadline_; }
  // As if that had been so much earlier which bounds the log of rules.
  void AgeLog(int64_t milliseconds);

  // What has come since the last call.
  std::vector<tpx_event> Traced() { return Take(trace_ring_); }
  std::vector<tpx_event> Logged() { return Take(log_ring_); }
  // Since it was made.
  tpx_event_counts Counts() const;

 private:
  struct Ring {
    ring_buffer* buffer = nullptr;
    std::vector<tpx_event> events;
  };
  void ForgetLog();
  static std::vector<tpx_event> Take(Ring& ring);
  void Open(const char* map, Ring& ring);
  tpx_event_counts Sum() const;

  const ProgRunner& runner_;
  tpx_trace* trace_;
  tpx_log_lease* log_;
  volatile uint64_t *trace_deadline_, *log_deadline_;
  Ring trace_ring_, log_ring_;
  tpx_event_counts before_{};
};

}  // namespace tpx::test
