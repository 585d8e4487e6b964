// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace tpx::app {

// What a configuration asks for; 0 sessions: as many as there is room for.
struct DescriptorWishes {
  uint32_t workers = 1;
  uint32_t sessions = 0;       // TCP, of all workers
  uint32_t udp_sessions = 0;   // of all workers
  uint32_t pipes = 0;          // per worker
  uint32_t reply_sockets = 0;  // per worker
};

// How many sessions the descriptor limit allows, per worker. TCP and UDP share
// `descriptors`; neither can take the last eighth from the other.
struct DescriptorBudget {
  uint32_t descriptors = 0;
  uint32_t sessions = 0;
  uint32_t udp_sessions = 0;
  uint32_t pipes = 0;
  uint32_t reply_sockets = 0;
  bool lowered = false;  // the limit allows fewer sessions than were asked for
};

// A TCP session takes two descriptors, a UDP session one, a pipe two; each
// worker and the process itself need a few. At least one session of each kind
// per worker comes out.
DescriptorBudget DivideDescriptors(uint64_t limit, const DescriptorWishes& wishes);

// The descriptors needed for all that is wished for.
uint64_t DescriptorsFor(const DescriptorWishes& wishes);

}  // namespace tpx::app
