// SPDX-License-Identifier: Apache-2.0
#include "tpx/observe/snapshot.h"

#include <algorithm>
#include <atomic>

#include "event_counts.h"
#include "tpx/base/clock.h"
#include "tpx/bpf/maps.h"

namespace tpx::observe {
namespace {

using bpf::Access;

template <typename T>
T Read(T& shared) {
  return std::atomic_ref<T>(shared).load(std::memory_order_acquire);
}

absl::StatusOr<Count> Sum(const bpf::PerCpuArray<tpx_count>& map, uint32_t index) {
  Count sum;
  TPX_ASSIGN_OR_RETURN(auto values, map.Lookup(index));
  for (const tpx_count& value : values) {
    sum.packets += value.packets;
    sum.bytes += value.bytes;
    sum.by_xdp += value.by_xdp;
  }
  return sum;
}

WorkerView ReadWorker(uint32_t id, tpx_worker& shared) {
  WorkerView view{.id = id, .state = Read(shared.state), .pid = Read(shared.pid)};
  view.lease_left_ms =
      (static_cast<int64_t>(Read(shared.deadline_ns)) - static_cast<int64_t>(MonotonicNs())) / 1'000'000;
  // The gauge before the causes: a session that has gone from it is in them.
  static_assert(TPX_C_SESSIONS == 0);
  for (size_t i = 0; i < view.counters.size(); i++) view.counters[i] = Read(shared.counter[i]);
  return view;
}

}  // namespace

absl::StatusOr<Snapshot> TakeSnapshot(const std::string& pins,
                                      const std::vector<std::optional<uint32_t>>& rule_counters) {
  TPX_ASSIGN_OR_RETURN(auto control, bpf::OpenControl(pins, Access::kReadOnly));
  TPX_ASSIGN_OR_RETURN(auto workers, bpf::OpenWorkers(pins, Access::kReadOnly));
  TPX_ASSIGN_OR_RETURN(auto counters, bpf::OpenCounters(pins, Access::kReadOnly));
  TPX_ASSIGN_OR_RETURN(auto hits, bpf::OpenRuleHits(pins, Access::kReadOnly));
  Snapshot snapshot{.generation = Read(control[0].generation),
                    .listen_port = Read(control[0].listen_port),
                    .watchers = Read(control[0].watchers)};
  for (uint32_t reason = 0; reason < TPX_REASON_COUNT; reason++) {
    TPX_ASSIGN_OR_RETURN(snapshot.reasons[reason], Sum(counters, reason));
  }
  for (const std::optional<uint32_t>& counter : rule_counters) {
    Count count;
    if (counter.has_value()) {
      TPX_ASSIGN_OR_RETURN(count, Sum(hits, *counter));
    }
    snapshot.rules.push_back(count);
  }
  TPX_ASSIGN_OR_RETURN(const auto events, bpf::OpenEventCounts(pins, Access::kReadOnly));
  TPX_ASSIGN_OR_RETURN(snapshot.events, SumOf(events));
  uint32_t n_workers = std::min<uint32_t>(Read(control[0].n_workers), TPX_MAX_WORKERS);
  for (uint32_t id = 0; id < n_workers; id++) snapshot.workers.push_back(ReadWorker(id, workers[id]));
  return snapshot;
}

}  // namespace tpx::observe
