// SPDX-License-Identifier: Apache-2.0
#include "event_counts.h"

#include "tpx/base/status.h"

namespace tpx::observe {

absl::StatusOr<EventCounts> SumOf(const bpf::PerCpuArray<tpx_event_counts>& counts) {
  EventCounts sum;
  TPX_ASSIGN_OR_RETURN(const auto values, counts.Lookup(0));
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

}  // namespace tpx::observe
