// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tpx/base/address.h"
#include "tpx/control/lifecycle.h"
#include "tpx/observe/snapshot.h"
#include "tpx_event.h"

namespace tpx::app {

// An event with what its numbers mean.
struct EventView {
  tpx_event event{};
  int64_t unix_ns = 0;                // when
  const char* verdict = "";           // "proxy", "redirect", "direct", "drop", "reject"
  observe::ReasonName reason{};       // that was counted
  std::optional<std::string> rule{};  // that was asked
  std::string device{};               // empty where the hook does not know it
};

// "tcp", or the protocol's number.
std::string ProtocolName(uint8_t proto);
const char* HookName(uint8_t hook);
// As the thread calls itself; what no terminal should get is escaped.
std::string ProcessName(const tpx_process& process);
Endpoint SourceOf(const tpx_event& event);
Endpoint DestinationOf(const tpx_event& event);
// "reject tcp 192.0.2.2:40000 > 203.0.113.5:23 in lan0 by rule telnet: rule_reject, 74 bytes"
std::string Describe(const EventView& view);

// What a trace is to show; what is not said fits everything.
struct TraceFilter {
  std::vector<uint8_t> protocols;  // two at most
  std::optional<Prefix> src, dst;
  uint16_t sport = 0, dport = 0;     // 0: any
  std::string rule, device;          // names; empty: any
  std::vector<std::string> reasons;  // names of reasons, or of effects
  bool all = false;                  // packets of known flows too; where no reason is named
  uint32_t every = 1;                // of so many on a CPU one
};

struct TraceLimits {
  uint64_t events = 0;                   // 0: none
  std::chrono::nanoseconds duration{0};  // 0: none
};

struct TraceSummary {
  uint64_t shown = 0;
  uint64_t lost = 0;         // the kernel had no room for them
  uint64_t sampled_out = 0;  // not asked for
  uint64_t pauses = 0;       // times nobody read for so long that the kernel stopped sending
  bool reader_gone = false;  // whoever read the output
  std::vector<std::string> notes;
};

// What shows the events.
struct TraceOutput {
  std::function<void(const EventView&)> show;
  std::function<bool()> flush;                   // false: nobody reads any more
  std::function<void(const std::string&)> note;  // what the user is to know at once
};

// The mask over enum tpx_reason that `filter` asks for; an error names what was probably meant.
absl::StatusOr<std::vector<bool>> ReasonsOf(const TraceFilter& filter);

// Shows events until a limit is reached, SIGINT or SIGTERM comes, nobody reads the output any more, or
// the kernel side is detached. One process of an instance may do this at a time.
absl::StatusOr<TraceSummary> RunTrace(const control::Paths& paths, const TraceFilter& filter,
                                      const TraceLimits& limits, const TraceOutput& output);

}  // namespace tpx::app
