// SPDX-License-Identifier: Apache-2.0
#include "tpx/data/spare_upstreams.h"

#include <poll.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <utility>

#include "tpx/sys/udp_socket.h"

namespace tpx::data {
namespace {

// Long after a softirq that found the socket by its port has put its datagram there.
constexpr uint32_t kRestMs = 5;
constexpr uint32_t kKeepMs = 1000;
constexpr size_t kLooksAtOnce = 64;

UdpSession* SessionOf(DeadlineHook* hook) { return static_cast<UdpSession*>(hook); }

size_t KindOf(const UdpKey& key, const Endpoint& target) {
  return key.is_pair() ? 2 + target.addr.is_v4() : key.client.addr.is_v4();
}

// Leaves what the next session takes over.
void Clear(UdpSession& session) {
  UdpSession cleared;
  cleared.upstream = std::move(session.upstream);
  cleared.index = session.index;
  cleared.generation = session.generation;
  cleared.phase = session.phase;
  cleared.armed_turn = session.armed_turn;
  cleared.receiving = session.receiving;
  session = std::move(cleared);
}

}  // namespace

SpareUpstreams::SpareUpstreams()
    : resting_(kRestMs),
      ready_{DeadlineList(kKeepMs), DeadlineList(kKeepMs), DeadlineList(kKeepMs), DeadlineList(kKeepMs)} {}

bool SpareUpstreams::Keep(UdpSession& session, uint64_t now_ms) {
  if (session.preserved || !session.receiving || size() >= kMost) return false;
  const int fd = session.upstream.get();
  if (sys::ReleaseUdpPort(fd) < 0) return false;
  if (session.fragments && sys::AllowFragments(fd, session.is_v4(), false) < 0) return false;
  session.phase = UdpSession::Phase::kSpare;
  resting_.Add(session, now_ms);
  return true;
}

UdpSession* SpareUpstreams::Take(const UdpKey& key, const Endpoint& target) {
  UdpSession* session = SessionOf(ready_[KindOf(key, target)].Newest());
  if (session == nullptr) return nullptr;
  Remove(*session);
  Clear(*session);
  return session;
}

void SpareUpstreams::Examine(uint64_t now_ms, absl::FunctionRef<bool()> is_idle,
                             absl::FunctionRef<void(UdpSession&)> close) {
  if (resting_.Expired(now_ms) != nullptr && is_idle()) Look(now_ms, is_idle, close);
  for (DeadlineList& list : ready_) {
    for (size_t n = 0; n < kLooksAtOnce && list.Expired(now_ms) != nullptr; ++n) {
      close(*SessionOf(list.Expired(now_ms)));
    }
  }
}

void SpareUpstreams::Look(uint64_t now_ms, absl::FunctionRef<bool()> is_idle,
                          absl::FunctionRef<void(UdpSession&)> close) {
  std::array<pollfd, kLooksAtOnce> looks;
  std::array<UdpSession*, kLooksAtOnce> sessions;
  size_t n = 0;
  for (DeadlineHook* hook; n < kLooksAtOnce && (hook = resting_.Expired(now_ms)) != nullptr; ++n) {
    DeadlineList::Remove(*hook);
    sessions[n] = SessionOf(hook);
    looks[n] = {.fd = sessions[n]->upstream.get(), .events = POLLIN | POLLOUT, .revents = 0};
  }
  const bool looked = poll(looks.data(), n, 0) >= 0;
  // Without deferred task work any system call may make completions, of what is no longer in the socket then.
  const bool idle = is_idle();
  for (size_t i = 0; i < n; ++i) {
    UdpSession& session = *sessions[i];
    const bool empty = idle && looks[i].revents == POLLOUT;
    if (!looked || (looks[i].revents & ~(POLLIN | POLLOUT)) != 0) {
      close(session);
    } else {
      (empty ? ready_[KindOf(session.key, session.target)] : resting_).Add(session, now_ms);
    }
  }
}

UdpSession* SpareUpstreams::Any() const {
  for (const DeadlineList* list : {&resting_, &ready_[0], &ready_[1], &ready_[2], &ready_[3]}) {
    if (DeadlineHook* hook = list->Oldest(); hook != nullptr) return SessionOf(hook);
  }
  return nullptr;
}

uint32_t SpareUpstreams::size() const {
  uint32_t size = resting_.size();
  for (const DeadlineList& list : ready_) size += list.size();
  return size;
}

uint64_t SpareUpstreams::NextTimeout() const {
  uint64_t next = resting_.NextExpiry();
  for (const DeadlineList& list : ready_) next = std::min(next, list.NextExpiry());
  return next;
}

}  // namespace tpx::data
