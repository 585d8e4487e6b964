// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace tpx::app {

// How many sessions the descriptor limit allows.
struct DescriptorBudget {
  uint32_t sessions_per_worker = 0;
  uint32_t pipes_per_worker = 0;
  bool lowered = false;  // the limit allows fewer sessions than were asked for
};

// A session takes two descriptors, a pipe two; each worker and the process
// itself need a few. `wanted_sessions` 0 means as many as there is room for.
// At least one session per worker comes out.
DescriptorBudget DivideDescriptors(uint64_t limit, uint32_t workers, uint32_t wanted_sessions,
                                   uint32_t wanted_pipes);

// The descriptors needed for that many sessions and pipes.
uint64_t DescriptorsFor(uint32_t workers, uint32_t sessions, uint32_t pipes_per_worker);

}  // namespace tpx::app
