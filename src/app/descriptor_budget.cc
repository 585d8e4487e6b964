// SPDX-License-Identifier: Apache-2.0
#include "descriptor_budget.h"

#include <algorithm>

namespace tpx::app {
namespace {

constexpr uint64_t kPerProcess = 64;  // standard streams, maps, links, netlink, signals
constexpr uint64_t kPerWorker = 16;   // ring, listeners, epoll, eventfd, a reserve for accept
constexpr uint64_t kPerSession = 2;
constexpr uint64_t kPerPipe = 2;
// What "as many as possible" means at most where the limit is very high.
constexpr uint64_t kMostSessions = 1'000'000;

}  // namespace

uint64_t DescriptorsFor(uint32_t workers, uint32_t sessions, uint32_t pipes_per_worker) {
  return kPerProcess + workers * (kPerWorker + kPerPipe * pipes_per_worker) + kPerSession * sessions;
}

DescriptorBudget DivideDescriptors(uint64_t limit, uint32_t workers, uint32_t wanted_sessions,
                                   uint32_t wanted_pipes) {
  DescriptorBudget budget;
  uint64_t fixed = kPerProcess + workers * kPerWorker;
  uint64_t room = limit > fixed ? limit - fixed : 0;
  // Pipes may take a quarter of the room: copying works without them.
  budget.pipes_per_worker =
      static_cast<uint32_t>(std::min<uint64_t>(wanted_pipes, room / 4 / (kPerPipe * workers)));
  room -= workers * kPerPipe * budget.pipes_per_worker;
  uint64_t possible = room / kPerSession;
  uint64_t wanted = wanted_sessions == 0 ? kMostSessions : wanted_sessions;
  budget.lowered = wanted_sessions != 0 && possible < wanted;
  uint64_t sessions = std::min(possible, wanted);
  budget.sessions_per_worker = static_cast<uint32_t>(std::max<uint64_t>(1, sessions / workers));
  return budget;
}

}  // namespace tpx::app
