// SPDX-License-Identifier: Apache-2.0
#include "support/event_tap.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <utility>

#include "support/check.h"

namespace tpx::test {
namespace {

uint64_t Deadline(int64_t milliseconds) {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec + milliseconds * 1'000'000);
}

size_t PageSize() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }

template <typename T>
T* Map(int fd) {
  void* at = mmap(nullptr, PageSize(), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  TPX_PCHECK(at != MAP_FAILED);
  return static_cast<T*>(at);
}

}  // namespace

EventTap::EventTap(const ProgRunner& runner)
    : runner_(runner),
      trace_(Map<tpx_trace>(runner.map_fd("tpx_trace"))),
      log_(Map<tpx_log_lease>(runner.map_fd("tpx_log_lease"))),
      trace_deadline_(reinterpret_cast<volatile uint64_t*>(&trace_->deadline_ns)),
      log_deadline_(reinterpret_cast<volatile uint64_t*>(&log_->deadline_ns)) {
  Leave();
  Open("tpx_events", trace_ring_);
  Open("tpx_log", log_ring_);
  Traced();
  Logged();
  ForgetLog();
  before_ = Sum();
}

EventTap::~EventTap() {
  Leave();
  Traced();
  Logged();
  ring_buffer__free(trace_ring_.buffer);
  ring_buffer__free(log_ring_.buffer);
  munmap(trace_, PageSize());
  munmap(log_, PageSize());
}

void EventTap::Leave() {
  *trace_deadline_ = 0;
  *log_deadline_ = 0;
}

void EventTap::Open(const char* map, Ring& ring) {
  auto take = [](void* events, void* record, size_t bytes) {
    TPX_CHECK(bytes == sizeof(tpx_event));
    static_cast<std::vector<tpx_event>*>(events)->push_back(*static_cast<tpx_event*>(record));
    return 0;
  };
  ring.buffer = ring_buffer__new(runner_.map_fd(map), take, &ring.events, nullptr);
  TPX_PCHECK(ring.buffer != nullptr);
}

tpx_trace EventTap::Everything() {
  tpx_trace trace{};
  trace.reasons[0] = trace.reasons[1] = ~uint64_t{0};
  trace.counter = TPX_NO_RULE;
  trace.every = 1;
  return trace;
}

void EventTap::Listen(const tpx_trace& trace, int64_t lease_ms) {
  *trace_ = trace;
  *trace_deadline_ = Deadline(lease_ms);
}

void EventTap::ListenToLog(int64_t lease_ms) { *log_deadline_ = Deadline(lease_ms); }

void EventTap::AgeLog(int64_t milliseconds) {
  std::vector<tpx_log_rate> values(static_cast<size_t>(libbpf_num_possible_cpus()));
  const int fd = runner_.map_fd("tpx_log_rates");
  const auto age = static_cast<uint64_t>(milliseconds * 1'000'000);
  for (uint32_t counter = 0; counter < TPX_MAX_COUNTERS; ++counter) {
    TPX_PCHECK(bpf_map_lookup_elem(fd, &counter, values.data()) == 0);
    for (tpx_log_rate& rate : values) rate.next_ns -= std::min<uint64_t>(rate.next_ns, age);
    TPX_PCHECK(bpf_map_update_elem(fd, &counter, values.data(), BPF_ANY) == 0);
  }
}

void EventTap::ForgetLog() {
  const std::vector<tpx_log_rate> zeros(static_cast<size_t>(libbpf_num_possible_cpus()));
  for (uint32_t counter = 0; counter < TPX_MAX_COUNTERS; ++counter)
    TPX_PCHECK(bpf_map_update_elem(runner_.map_fd("tpx_log_rates"), &counter, zeros.data(), BPF_ANY) == 0);
}

std::vector<tpx_event> EventTap::Take(Ring& ring) {
  TPX_CHECK(ring_buffer__consume(ring.buffer) >= 0);
  return std::exchange(ring.events, {});
}

tpx_event_counts EventTap::Sum() const {
  std::vector<tpx_event_counts> values(static_cast<size_t>(libbpf_num_possible_cpus()));
  const uint32_t zero = 0;
  TPX_PCHECK(bpf_map_lookup_elem(runner_.map_fd("tpx_event_cnts"), &zero, values.data()) == 0);
  tpx_event_counts sum{};
  for (const tpx_event_counts& value : values) {
    sum.matched += value.matched;
    sum.sent += value.sent;
    sum.lost += value.lost;
    sum.log_sent += value.log_sent;
    sum.log_skipped += value.log_skipped;
    sum.log_lost += value.log_lost;
  }
  return sum;
}

tpx_event_counts EventTap::Counts() const {
  tpx_event_counts sum = Sum();
  sum.matched -= before_.matched;
  sum.sent -= before_.sent;
  sum.lost -= before_.lost;
  sum.log_sent -= before_.log_sent;
  sum.log_skipped -= before_.log_skipped;
  sum.log_lost -= before_.log_lost;
  return sum;
}

}  // namespace tpx::test
