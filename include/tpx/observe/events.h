// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "tpx/bpf/ring_reader.h"
#include "tpx/bpf/shared_array.h"
#include "tpx/observe/snapshot.h"
#include "tpx_event.h"

// The two listeners of tpx_event.h. Each may be there once: the caller holds a lock.
// The programs send nothing any more when a listener has not renewed its lease for
// the time that Begin or Renew gave it, or is destroyed.
namespace tpx::observe {

// Takes an event; false ends the call.
using TakeEvent = std::function<bool(const tpx_event&)>;

// The lease in a shared page, as this process holds it.
class Lease {
 public:
  explicit Lease(uint64_t* deadline_ns) : deadline_ns_(deadline_ns) {}
  Lease(Lease&& other) noexcept : deadline_ns_(std::exchange(other.deadline_ns_, nullptr)) {}
  Lease& operator=(Lease&&) = delete;
  ~Lease() { End(); }

  // False where it had ended since the last time.
  bool Renew(uint64_t duration_ns);
  void End();

 private:
  uint64_t* deadline_ns_;
};

// What the programs send to `trace`.
class TraceStream {
 public:
  static absl::StatusOr<TraceStream> Open(const std::string& pins);

  // What is there of an earlier listener is thrown away. The lease of `filter` is not looked at.
  absl::Status Begin(const tpx_trace& filter, uint64_t lease_ns);
  bool Renew(uint64_t lease_ns) { return lease_.Renew(lease_ns); }
  // The one thing of a filter that a reload may change.
  void FollowRule(uint32_t counter);
  // Never waits, and does not go on for ever: at most what fits the ring a few times.
  absl::Status Drain(const TakeEvent& take);
  // Nothing is sent after it; what was can still be drained.
  void End() { lease_.End(); }
  // Since Begin.
  absl::StatusOr<EventCounts> Counts() const;

 private:
  TraceStream(bpf::RingReader<tpx_event> ring, bpf::SharedArray<tpx_trace> shared,
              bpf::PerCpuArray<tpx_event_counts> counts)
      : ring_(std::move(ring)),
        shared_(std::move(shared)),
        counts_(std::move(counts)),
        lease_(reinterpret_cast<uint64_t*>(&shared_[0].deadline_ns)) {}

  bpf::RingReader<tpx_event> ring_;
  bpf::SharedArray<tpx_trace> shared_;
  bpf::PerCpuArray<tpx_event_counts> counts_;
  EventCounts before_;
  Lease lease_;
};

// What the programs send of rules whose flows are logged.
class LogStream {
 public:
  static absl::StatusOr<LogStream> Open(const std::string& pins);

  void Renew(uint64_t lease_ns) { lease_.Renew(lease_ns); }
  absl::Status Drain(const TakeEvent& take);
  // Readable when there is something to drain.
  int fd() const { return ring_.fd(); }

 private:
  LogStream(bpf::RingReader<tpx_event> ring, bpf::SharedArray<tpx_log_lease> shared)
      : ring_(std::move(ring)),
        shared_(std::move(shared)),
        lease_(reinterpret_cast<uint64_t*>(&shared_[0].deadline_ns)) {}

  bpf::RingReader<tpx_event> ring_;
  bpf::SharedArray<tpx_log_lease> shared_;
  Lease lease_;
};

}  // namespace tpx::observe
