// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>

#include "absl/status/statusor.h"
#include "event_view.h"
#include "tpx/control/lifecycle.h"
#include "tpx/observe/events.h"

namespace tpx::app {

// Writes the flows of rules that say `log: sample` to the process's log, a line
// each. The kernel bounds them per rule and CPU; here all rules together have a
// bound, so that the log's own does not keep other lines from it.
class FlowLog {
 public:
  static constexpr uint32_t kLinesPerSecond = 50;

  static absl::StatusOr<FlowLog> Open(const control::Paths& paths);

  // Readable when something is to be written.
  int fd() const { return stream_.fd(); }
  // Call it when fd() is readable, and once a second at least: the kernel sends nothing to a process
  // that has not called for five seconds.
  void Write();

 private:
  using Clock = std::chrono::steady_clock;

  FlowLog(EventNames names, observe::LogStream stream)
      : names_(std::move(names)), stream_(std::move(stream)) {}
  void BeginSecond();
  void WriteOne(const tpx_event& event);

  EventNames names_;
  observe::LogStream stream_;
  Clock::time_point second_ = Clock::now();
  uint32_t lines_ = 0;     // in this second
  uint64_t left_out_ = 0;  // same
};

}  // namespace tpx::app
