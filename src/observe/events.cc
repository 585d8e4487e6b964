// SPDX-License-Identifier: Apache-2.0
#include "tpx/observe/events.h"

#include <atomic>

#include "event_counts.h"
#include "tpx/base/clock.h"
#include "tpx/base/status.h"
#include "tpx/bpf/maps.h"

namespace tpx::observe {
namespace {

using bpf::Access;

// Of one Drain: under a flood others have their turn too.
constexpr size_t kMostAtOnce = 4 * TPX_TRACE_BYTES / sizeof(tpx_event);

absl::Status DrainSome(bpf::RingReader<tpx_event>& ring, const TakeEvent& take) {
  size_t left = kMostAtOnce;
  return ring.Drain([&](const tpx_event& event) { return take(event) && --left > 0; }).status();
}

}  // namespace

bool Lease::Renew(uint64_t duration_ns) {
  if (deadline_ns_ == nullptr) return false;
  const uint64_t now = MonotonicNs();
  return std::atomic_ref(*deadline_ns_).exchange(now + duration_ns, std::memory_order_acq_rel) > now;
}

void Lease::End() {
  if (deadline_ns_ != nullptr) std::atomic_ref(*deadline_ns_).store(0, std::memory_order_release);
}

absl::StatusOr<TraceStream> TraceStream::Open(const std::string& pins) {
  TPX_ASSIGN_OR_RETURN(auto ring, bpf::OpenEvents(pins));
  TPX_ASSIGN_OR_RETURN(auto shared, bpf::OpenTrace(pins, Access::kReadWrite));
  TPX_ASSIGN_OR_RETURN(auto counts, bpf::OpenEventCounts(pins, Access::kReadOnly));
  return TraceStream(std::move(ring), std::move(shared), std::move(counts));
}

absl::Status TraceStream::Begin(const tpx_trace& filter, uint64_t lease_ns) {
  lease_.End();  // that of an earlier listener, which was killed, may still run
  tpx_trace quiet = filter;
  quiet.deadline_ns = 0;
  shared_[0] = quiet;
  size_t thrown_away = 0;
  do {
    TPX_ASSIGN_OR_RETURN(thrown_away, ring_.Drain([](const tpx_event&) { return true; }));
  } while (thrown_away != 0);
  before_ = {};
  TPX_ASSIGN_OR_RETURN(before_, Counts());
  lease_.Renew(lease_ns);
  return absl::OkStatus();
}

void TraceStream::FollowRule(uint32_t counter) {
  std::atomic_ref(shared_[0].counter).store(counter, std::memory_order_release);
}

absl::Status TraceStream::Drain(const TakeEvent& take) { return DrainSome(ring_, take); }

absl::StatusOr<EventCounts> TraceStream::Counts() const {
  TPX_ASSIGN_OR_RETURN(EventCounts counts, SumOf(counts_));
  counts.matched -= before_.matched;
  counts.sent -= before_.sent;
  counts.lost -= before_.lost;
  return counts;
}

absl::StatusOr<LogStream> LogStream::Open(const std::string& pins) {
  TPX_ASSIGN_OR_RETURN(auto ring, bpf::OpenLog(pins));
  TPX_ASSIGN_OR_RETURN(auto shared, bpf::OpenLogLease(pins, Access::kReadWrite));
  return LogStream(std::move(ring), std::move(shared));
}

absl::Status LogStream::Drain(const TakeEvent& take) { return DrainSome(ring_, take); }

}  // namespace tpx::observe
