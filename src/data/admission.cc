// SPDX-License-Identifier: Apache-2.0
#include "tpx/data/admission.h"

#include <algorithm>

#include "tpx/data/session.h"

namespace tpx::data {

Admission::Admission(Acceptor& acceptor, SharedSlot& slot, const Descriptors& descriptors,
                     uint32_t max_sessions)
    : acceptor_(acceptor), slot_(slot), descriptors_(descriptors), max_sessions_(max_sessions) {}

void Admission::Start() { slot_.SetState(TPX_WORKER_SERVING); }

void Admission::BeginDraining() {
  draining_ = true;
  slot_.SetState(TPX_WORKER_DRAINING);
}

void Admission::BecomeFull(uint64_t now_ms) {
  next_ms_ = now_ms + kRetryMs;
  if (full_) return;
  full_ = true;
  waiting_ = false;
  acceptor_.Pause();
  if (!shortage_) full_since_ms_ = now_ms;
  if (!draining_) slot_.SetState(TPX_WORKER_FULL);
}

void Admission::BecomeServing() {
  full_ = false;
  waiting_ = true;
  acceptor_.Resume();
  if (!draining_) slot_.SetState(TPX_WORKER_SERVING);
}

void Admission::OnShortage(uint64_t now_ms) {
  BecomeFull(now_ms);
  if (shortage_) return;
  shortage_ = true;
  full_since_ms_ = now_ms;
}

uint32_t Admission::Room(uint32_t open_sessions) const {
  const uint32_t below_limit = open_sessions < max_sessions_ ? max_sessions_ - open_sessions : 0;
  return std::min(below_limit, descriptors_.left() / kSides);
}

void Admission::Run(uint32_t open_sessions, uint64_t now_ms, AcceptSink& sink) {
  if (full_) RunFull(open_sessions, now_ms);
  if (full_) return;
  const uint32_t room = Room(open_sessions);
  if (room == 0) {
    slot_.Add(TPX_C_LIMIT_REACHED);
    BecomeFull(now_ms);
    return;
  }
  if (!waiting_) return;
  const Acceptor::Outcome outcome = acceptor_.Accept(std::min(room, kTurnAccepts), sink);
  if (outcome == Acceptor::Outcome::kShortage) return OnShortage(now_ms);
  shortage_ = false;
  waiting_ = outcome != Acceptor::Outcome::kDry;
}

void Admission::RunFull(uint32_t open_sessions, uint64_t now_ms) {
  const bool has_room = Room(open_sessions) >= std::max(1U, max_sessions_ / 16);
  if (has_room && !shortage_) return BecomeServing();
  if (now_ms < next_ms_) return;
  next_ms_ = now_ms + kRetryMs;
  if (now_ms - full_since_ms_ >= kPatienceMs) acceptor_.ResetWaiting(4 * kTurnAccepts);
  if (has_room) BecomeServing();
}

uint64_t Admission::NextTime() const { return full_ ? next_ms_ : UINT64_MAX; }

}  // namespace tpx::data
