// SPDX-License-Identifier: Apache-2.0
#include "descriptor_budget.h"

#include <algorithm>

namespace tpx::app {
namespace {

constexpr uint64_t kPerProcess = 64;  // standard streams, maps, links, netlink, signals
constexpr uint64_t kPerWorker = 24;   // ring, listeners, epoll, eventfd, raw sockets, a reserve for accept
constexpr uint64_t kPerSession = 2;
constexpr uint64_t kPerPipe = 2;
// What "as many as possible" means at most where the limit is very high.
constexpr uint64_t kMostSessions = 1'000'000;

uint32_t PerWorker(uint64_t possible, uint64_t wanted, uint32_t workers) {
  const uint64_t all = std::min(possible, wanted == 0 ? kMostSessions : wanted);
  return static_cast<uint32_t>(std::max<uint64_t>(1, all / workers));
}

}  // namespace

uint64_t DescriptorsFor(const DescriptorWishes& w) {
  return kPerProcess + w.workers * (kPerWorker + kPerPipe * w.pipes + w.reply_sockets) +
         kPerSession * w.sessions + w.udp_sessions;
}

DescriptorBudget DivideDescriptors(uint64_t limit, const DescriptorWishes& wishes) {
  const uint32_t workers = wishes.workers;
  DescriptorBudget budget;
  const uint64_t fixed = kPerProcess + workers * kPerWorker;
  uint64_t room = limit > fixed ? limit - fixed : 0;
  // A quarter of the room at most for pipes, because copying works without them,
  // and a sixteenth for sockets that answer, because those can be made again.
  budget.pipes = static_cast<uint32_t>(std::min<uint64_t>(wishes.pipes, room / 4 / (kPerPipe * workers)));
  budget.reply_sockets = static_cast<uint32_t>(
      std::max<uint64_t>(1, std::min<uint64_t>(wishes.reply_sockets, room / 16 / workers)));
  room -= std::min<uint64_t>(room, workers * (kPerPipe * budget.pipes + budget.reply_sockets));
  budget.descriptors = static_cast<uint32_t>(std::max<uint64_t>(kPerSession + 1, room / workers));
  // An eighth is kept from each kind for the other, or less where that asks for less.
  auto but_for = [room](uint64_t wished) {
    return room - (wished == 0 ? room / 8 : std::min(room / 8, wished));
  };
  const uint64_t possible = but_for(wishes.udp_sessions) / kPerSession;
  const uint64_t udp_possible = but_for(kPerSession * wishes.sessions);
  budget.lowered = wishes.sessions > possible || wishes.udp_sessions > udp_possible;
  budget.sessions = PerWorker(possible, wishes.sessions, workers);
  budget.udp_sessions = PerWorker(udp_possible, wishes.udp_sessions, workers);
  return budget;
}

}  // namespace tpx::app
