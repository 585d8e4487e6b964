// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tpx_abi.h"

namespace tpx::observe {

// Static facts of a reason or a worker counter: one row of tpx_reasons.def or
// tpx_counters.def.
struct ReasonName {
  const char* name;    // "rule_proxy"
  const char* hook;    // "tc", "lookup", "local"
  const char* effect;  // "pass", "steer", "drop", "answer"
  const char* text;
};
struct CounterName {
  const char* name;  // "bytes_up"
  const char* kind;  // "counter", "gauge"
  const char* text;
};
const ReasonName& NameOf(tpx_reason reason);
const CounterName& NameOf(tpx_worker_counter counter);
const char* WorkerStateName(uint32_t state);  // "serving", …

struct Count {
  uint64_t packets = 0;
  uint64_t bytes = 0;
  uint64_t by_xdp = 0;  // of the packets
};

struct WorkerView {
  uint32_t id = 0;
  uint32_t state = TPX_WORKER_ABSENT;
  uint32_t pid = 0;
  int64_t lease_left_ms = 0;  // negative: ran out that long ago
  std::array<uint64_t, TPX_WORKER_COUNTER_COUNT> counters{};
  // Alive means that BPF would still count on it.
  bool alive() const { return state != TPX_WORKER_ABSENT && lease_left_ms >= 0; }
};

// Events that the programs sent to those who listen, or not; see tpx_event.h.
struct EventCounts {
  uint64_t matched = 0;      // fitted a trace
  uint64_t sent = 0;         // of these, to it
  uint64_t lost = 0;         // of these, for which there was no room
  uint64_t log_sent = 0;     // to the proxy's log
  uint64_t log_skipped = 0;  // more than a rule's share of the log
  uint64_t log_lost = 0;     // no proxy was there to read them, or no room
};

// Everything that the pinned maps tell, read without asking any process. The
// values are read one after the other while traffic goes on: sums may differ
// by the packets in between. A worker's sessions are read before what ended
// them, so each session is among the one or the other.
struct Snapshot {
  uint32_t generation = 0;
  uint32_t listen_port = 0;
  uint32_t watchers = 0;  // bits of tpx_watcher, as the proxy has found them last
  std::array<Count, TPX_REASON_COUNT> reasons{};
  std::vector<Count> rules{};  // as asked for
  EventCounts events{};
  std::vector<WorkerView> workers{};  // as many as the proxy that ran last had
};

// `rule_counters` are indices into tpx_rule_hits; rules that have none count nothing.
absl::StatusOr<Snapshot> TakeSnapshot(const std::string& pins,
                                      const std::vector<std::optional<uint32_t>>& rule_counters);

}  // namespace tpx::observe
