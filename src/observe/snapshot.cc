// SPDX-License-Identifier: Apache-2.0
#include "tpx/observe/snapshot.h"

#include <algorithm>
#include <atomic>
#include <ctime>

#include "tpx/bpf/maps.h"

namespace tpx::observe {
namespace {

using bpf::Access;

uint64_t MonotonicNs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
}

template <typename T>
T Read(T& shared) {
  return std::atomic_ref<T>(shared).load(std::memory_order_relaxed);
}

absl::StatusOr<Count> Sum(const bpf::PerCpuArray<tpx_count>& map, uint32_t index) {
  Count sum;
  TPX_ASSIGN_OR_RETURN(auto values, map.Lookup(index));
  for (const tpx_count& value : values) {
    sum.packets += value.packets;
    sum.bytes += value.bytes;
  }
  return sum;
}

WorkerView ReadWorker(uint32_t id, tpx_worker& shared) {
  WorkerView view{.id = id, .state = Read(shared.state), .pid = Read(shared.pid)};
  view.lease_left_ms =
      (static_cast<int64_t>(Read(shared.deadline_ns)) - static_cast<int64_t>(MonotonicNs())) / 1'000'000;
  for (size_t i = 0; i < view.counters.size(); i++) view.counters[i] = Read(shared.counter[i]);
  return view;
}

}  // namespace

absl::StatusOr<Snapshot> TakeSnapshot(const std::string& pins, size_t n_rules) {
  TPX_ASSIGN_OR_RETURN(auto control, bpf::OpenControl(pins, Access::kReadOnly));
  TPX_ASSIGN_OR_RETURN(auto workers, bpf::OpenWorkers(pins, Access::kReadOnly));
  TPX_ASSIGN_OR_RETURN(auto counters, bpf::OpenCounters(pins, Access::kReadOnly));
  TPX_ASSIGN_OR_RETURN(auto hits, bpf::OpenRuleHits(pins, Access::kReadOnly));
  Snapshot snapshot{.generation = Read(control[0].generation), .listen_port = Read(control[0].listen_port)};
  for (uint32_t reason = 0; reason < TPX_REASON_COUNT; reason++) {
    TPX_ASSIGN_OR_RETURN(snapshot.reasons[reason], Sum(counters, reason));
  }
  uint32_t slot = snapshot.generation % TPX_SLOTS;
  for (uint32_t rule = 0; rule < std::min<size_t>(n_rules, TPX_MAX_RULES); rule++) {
    TPX_ASSIGN_OR_RETURN(Count count, Sum(hits, slot * TPX_MAX_RULES + rule));
    snapshot.rules.push_back(count);
  }
  uint32_t n_workers = std::min<uint32_t>(Read(control[0].n_workers), TPX_MAX_WORKERS);
  for (uint32_t id = 0; id < n_workers; id++) snapshot.workers.push_back(ReadWorker(id, workers[id]));
  return snapshot;
}

}  // namespace tpx::observe
