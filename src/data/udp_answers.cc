// SPDX-License-Identifier: Apache-2.0
#include "tpx/data/udp_answers.h"

#include <algorithm>
#include <atomic>
#include <limits>

#include "tpx/data/decision_source.h"
#include "tpx/sys/socket.h"

namespace tpx::data {
namespace {

constexpr uint64_t kRoundMs = 500, kSoonMs = 50;
constexpr int kChunksAtOnce = 4;
constexpr uint32_t kWaitingAtOnce = 64;

void NextTurn(tpx_upstream& upstream, std::memory_order order) {
  std::atomic_ref turn(upstream.turn);
  turn.store(turn.load(std::memory_order_relaxed) + 1, order);
}

}  // namespace

UdpAnswers::UdpAnswers(uint32_t worker, std::span<tpx_upstream> upstreams, UdpTable& table)
    : worker_(worker), upstreams_(upstreams), table_(table) {}

tpx_upstream& UdpAnswers::At(const UdpSession& session) const {
  return upstreams_[TPX_UPSTREAM(uint32_t{!session.is_v4()}, session.port)];
}

// A preserved session has the client's address and port, not one of the gateway's; tc makes no packet of one
// family of one of the other.
void UdpAnswers::Announce(UdpSession& session) {
  Endpoint own;
  if (upstreams_.empty() || session.preserved || session.key.client.addr.is_v4() != session.is_v4() ||
      sys::OriginalDestination(session.upstream.get(), own) < 0)
    return;
  session.port = own.port;
  tpx_upstream& upstream = At(session);
  session.answers = std::atomic_ref(upstream.answers).load(std::memory_order_relaxed);
  const tpx_target client = ToTarget(session.key.client), server = ToTarget(session.key.destination);
  upstream.client = client.addr;
  upstream.client_port = client.port;
  upstream.server = server.addr;
  upstream.server_port = server.port;
  upstream.own = session.key.is_pair() ? own.addr.raw : tpx_addr{};
  upstream.worker = static_cast<uint8_t>(worker_);
  NextTurn(upstream, std::memory_order_release);
}

void UdpAnswers::Withdraw(UdpSession& session) {
  if (session.port == 0) return;
  NextTurn(At(session), std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_seq_cst);  // before what the next session of the port stores
  session.port = 0;
}

bool UdpAnswers::Note(UdpSession& session) {
  if (session.port == 0) return false;
  const uint16_t answers = std::atomic_ref(At(session).answers).load(std::memory_order_relaxed);
  const auto more = static_cast<uint16_t>(answers - session.answers);
  if (more == 0) return false;
  session.answers = answers;
  session.down =
      static_cast<uint8_t>(std::min<uint32_t>(std::numeric_limits<uint8_t>::max(), session.down + more));
  return true;
}

// What tc has of the clock is younger than now_ms by a turn at most, and its lowest bits.
bool UdpAnswers::Refresh(UdpSession& session, uint64_t now_ms) {
  if (!Note(session)) return false;
  const uint32_t answered_ms = std::atomic_ref(At(session).answered_ms).load(std::memory_order_relaxed);
  const auto age_ms = static_cast<int32_t>(static_cast<uint32_t>(now_ms) - answered_ms);
  const uint64_t at_ms = age_ms > 0 ? now_ms - static_cast<uint32_t>(age_ms) : now_ms;
  busy_ms_ = now_ms;
  return table_.TouchLate(session, at_ms);
}

void UdpAnswers::Look(uint64_t now_ms) {
  if (upstreams_.empty() || (chunk_ == 0 && now_ms < next_round_ms_)) return;
  if (chunk_ == 0) {
    next_round_ms_ = now_ms + kRoundMs;
    left_ = table_.open();
  }
  bool there = true;
  for (int n = 0; n < kChunksAtOnce && there && left_ > 0; ++n) {
    there = table_.ForEachIn(chunk_++, [this, now_ms](UdpSession& session) {
      if (session.phase != UdpSession::Phase::kOpen) return;
      Refresh(session, now_ms);
      left_ -= left_ > 0;
    });
  }
  if (!there || left_ == 0) chunk_ = 0;
}

void UdpAnswers::LookSoon(uint64_t now_ms) { next_round_ms_ = std::min(next_round_ms_, now_ms + kSoonMs); }

bool UdpAnswers::LookAtWaiting(uint64_t now_ms) {
  bool answered = false;
  table_.ForOldestOneWay(kWaitingAtOnce, [&](UdpSession& session) { answered |= Refresh(session, now_ms); });
  return answered;
}

uint64_t UdpAnswers::NextLook() const {
  if (upstreams_.empty() || table_.open() == 0) return UINT64_MAX;
  return chunk_ == 0 ? next_round_ms_ : 0;
}

}  // namespace tpx::data
