// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "absl/status/statusor.h"
#include "tpx/bpf/map.h"
#include "tpx/observe/snapshot.h"
#include "tpx_event.h"

namespace tpx::observe {

// Over all CPUs.
absl::StatusOr<EventCounts> SumOf(const bpf::PerCpuArray<tpx_event_counts>& counts);

}  // namespace tpx::observe
