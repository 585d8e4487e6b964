// SPDX-License-Identifier: Apache-2.0
#include "tpx/data/relay.h"

#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "tpx/data/connector.h"
#include "tpx/sys/socket.h"

namespace tpx::data {
namespace {

// Not POLLPRI: a completion may carry the waker's key in place of the socket's
// state, and that key claims it for every byte.
constexpr uint32_t kEvents = POLLIN | POLLOUT | POLLRDHUP;

// Limits of one turn of the loop, so that the lease is renewed in time.
constexpr uint32_t kTurnVisits = 256;
constexpr uint64_t kTurnBytes = 32 << 20;
constexpr uint32_t kTurnTimeouts = 64;

// Closed sessions keep their index until their polls have ended, a turn later.
constexpr uint32_t kClosingSlack = 4096;

constexpr tpx_worker_counter kBytes[kSides] = {TPX_C_BYTES_UP, TPX_C_BYTES_DOWN};
constexpr tpx_worker_counter kResetBy[kSides] = {TPX_C_CLOSED_CLIENT_RESET, TPX_C_CLOSED_SERVER_RESET};

uint8_t Other(uint8_t side) { return side ^ 1; }

void Note(Side& side, uint32_t events) {
  if ((events & (POLLIN | POLLRDHUP | POLLHUP | POLLERR)) != 0) side.readable = true;
  if ((events & (POLLOUT | POLLHUP | POLLERR)) != 0) side.writable = true;
  if ((events & (POLLRDHUP | POLLHUP | POLLERR)) != 0) side.drain = true;
}

}  // namespace

Relay::Relay(const WorkerOptions& options, io::Ring& ring, SharedSlot& slot, Descriptors& descriptors)
    : ring_(ring),
      slot_(slot),
      descriptors_(descriptors),
      pipes_(options.max_pipes),
      pump_(pipes_),
      sessions_(options.max_sessions + kClosingSlack),
      connecting_(options.connect_ms),
      idle_(options.idle_ms),
      half_closed_(options.half_closed_ms),
      resetting_(kRecheckMs) {}

void Relay::Start(UniqueFd client, UniqueFd server, uint64_t now_ms) {
  if (!descriptors_.Take(kSides)) return slot_.Add(TPX_C_LIMIT_RESET);
  Session* session = sessions_.Allocate();
  if (session == nullptr) {
    descriptors_.Give(kSides);
    slot_.Add(TPX_C_LIMIT_RESET);
    return;
  }
  session->phase = Phase::kConnecting;
  session->side[kClient].fd = std::move(client);
  session->side[kServer].fd = std::move(server);
  connecting_.Add(*session, now_ms);
  Arm(*session, kClient);
  Arm(*session, kServer);
  slot_.Add(TPX_C_SESSIONS_TOTAL);
  slot_.Set(TPX_C_SESSIONS, ++open_);
}

void Relay::Arm(Session& session, uint8_t side) {
  const io::Token token{.index = session.index, .generation = session.generation, .kind = side};
  ring_.PollMultishot(session.side[side].fd.get(), kEvents, token.Pack());
  session.side[side].polled = true;
}

void Relay::MakeReady(Session& session) {
  if (session.ready) return;
  session.ready = true;
  session.next_ready = nullptr;
  (ready_first_ == nullptr ? ready_first_ : ready_last_->next_ready) = &session;
  ready_last_ = &session;
}

void Relay::OnCompletion(io::Token token, const io::Ring::Completion& completion) {
  Session* session = sessions_.Find(token.index, token.generation);
  if (session == nullptr) return slot_.Add(TPX_C_STALE_COMPLETIONS);
  Side& side = session->side[token.kind];
  if (!completion.more) side.polled = false;
  if (session->phase == Phase::kClosing) return FreeIfQuiet(*session);
  // A poll may end by itself, when the completion queue is full; armed again it
  // reports what is ready by then.
  if (completion.result < 0) {
    side.broken = true;
    return MakeReady(*session);
  }
  if (!completion.more) Arm(*session, token.kind);
  const auto events = static_cast<uint32_t>(completion.result);
  Note(side, events);
  // The server's error while connecting says how that failed: FinishConnect takes it.
  const bool connecting = session->phase == Phase::kConnecting;
  if ((events & POLLERR) != 0 && !(connecting && token.kind == kServer)) {
    const int error = sys::TakeError(side.fd.get());
    // 0: the error was already taken by the call that met it.
    side.broken = side.broken || error != 0 || connecting;
    side.aborted = side.aborted || error == ECONNABORTED;
  }
  MakeReady(*session);
}

bool Relay::RunReady(uint64_t now_ms) {
  // What becomes ready on the way waits for the next turn.
  const Session* const last = ready_last_;
  const uint64_t bytes_before = slot_.Get(TPX_C_BYTES_UP) + slot_.Get(TPX_C_BYTES_DOWN);
  for (uint32_t visits = 0; ready_first_ != nullptr && visits < kTurnVisits; ++visits) {
    Session& session = *ready_first_;
    ready_first_ = session.next_ready;
    session.ready = false;
    const bool was_last = &session == last;
    Visit(session, now_ms);
    const uint64_t moved = slot_.Get(TPX_C_BYTES_UP) + slot_.Get(TPX_C_BYTES_DOWN) - bytes_before;
    if (was_last || moved >= kTurnBytes) break;
  }
  return ready_first_ != nullptr;
}

void Relay::Visit(Session& session, uint64_t now_ms) {
  switch (session.phase) {
    case Phase::kConnecting:
      return FinishConnect(session, now_ms);
    case Phase::kRelaying:
    case Phase::kResetting:
      return Advance(session, now_ms);
    case Phase::kClosing:
      return FreeIfQuiet(session);
    case Phase::kFree:
      return;
  }
}

void Relay::FinishConnect(Session& session, uint64_t now_ms) {
  const Side& client = session.side[kClient];
  if (client.broken) return Close(session, client.aborted ? TPX_C_CLOSED_ABORTED : TPX_C_CLOSED_CLIENT_RESET);
  Side& server = session.side[kServer];
  if (server.broken) return Close(session, TPX_C_CONNECT_FAILED);
  if (!server.writable) return;  // an event of the client, whose FIN and bytes wait
  const int error = sys::TakeError(server.fd.get());
  // A handshake is refused with ECONNREFUSED; these come from a server that
  // accepted, perhaps sent something, and reset.
  server.broken = error == ECONNRESET || error == EPIPE;
  if (error != 0 && !server.broken) return Close(session, ConnectFailureCounter(error));
  session.phase = Phase::kRelaying;
  idle_.Add(session, now_ms);
  Advance(session, now_ms);
}

void Relay::PumpDirection(Session& session, uint8_t d, uint64_t now_ms) {
  Direction& direction = session.direction[d];
  if (direction.done()) return;
  const PumpResult result = pump_.Run(direction, session.side[d], session.side[Other(d)], now_ms);
  if (result.pipe_short) slot_.Add(TPX_C_PIPES_SHORT);
  if (result.bytes > 0) {
    slot_.Add(kBytes[d], result.bytes);
    slot_.Add(TPX_C_BYTES_SPLICED, result.spliced);
    slot_.Set(TPX_C_PIPES, pipes_.size());
    if (session.phase == Phase::kRelaying) session.list->Touch(session, now_ms);
  }
  switch (result.outcome) {
    case PumpOutcome::kWaiting:
      return;
    case PumpOutcome::kTurnOver:
      return MakeReady(session);
    case PumpOutcome::kEnded:
      if (session.phase == Phase::kRelaying) half_closed_.Add(session, now_ms);
      return;
    case PumpOutcome::kSourceBroken:
    case PumpOutcome::kSinkBroken:
      return pump_.Abandon(direction);
  }
}

void Relay::Advance(Session& session, uint64_t now_ms) {
  for (uint8_t d : {kClient, kServer}) PumpDirection(session, d, now_ms);
  const Side* side = session.side;
  if (side[kClient].aborted || side[kServer].aborted) return Close(session, TPX_C_CLOSED_ABORTED);
  if (side[kClient].broken && side[kServer].broken) {
    return Close(session, session.phase == Phase::kResetting ? session.reason : TPX_C_CLOSED_CLIENT_RESET);
  }
  if (session.phase == Phase::kRelaying) {
    for (uint8_t s : {kClient, kServer}) {
      if (side[s].broken) return BeginReset(session, s, now_ms);
    }
    if (session.direction[kClient].ended && session.direction[kServer].ended)
      Close(session, TPX_C_CLOSED_CLEAN);
    return;
  }
  CheckDelivered(session, now_ms);
}

void Relay::BeginReset(Session& session, uint8_t broken, uint64_t now_ms) {
  session.phase = Phase::kResetting;
  session.reason = kResetBy[broken];
  session.give_up_ms = now_ms + kDeliverMs;
  resetting_.Add(session, now_ms);
  pump_.Abandon(session.direction[Other(broken)]);
  // The error may have been found by writing: what was received before it is still to be read.
  session.side[broken].readable = session.side[broken].drain = true;
  Advance(session, now_ms);
}

void Relay::CheckDelivered(Session& session, uint64_t now_ms) {
  const uint8_t broken = session.reason == kResetBy[kClient] ? kClient : kServer;
  const bool delivered =
      session.direction[broken].done() && sys::UnacknowledgedBytes(session.side[Other(broken)].fd.get()) <= 0;
  if (delivered || now_ms >= session.give_up_ms) Close(session, session.reason);
}

void Relay::Close(Session& session, tpx_worker_counter reason) {
  slot_.Add(reason);  // before the gauge: see struct tpx_worker
  slot_.Set(TPX_C_SESSIONS, --open_);
  descriptors_.Give(kSides);
  session.phase = Phase::kClosing;
  DeadlineList::Remove(session);
  for (Direction& direction : session.direction) pump_.Abandon(direction);
  slot_.Set(TPX_C_PIPES, pipes_.size());
  constexpr uint64_t kReport = io::Token{.kind = kIgnoredKind}.Pack();
  for (uint8_t s : {kClient, kServer}) {
    Side& side = session.side[s];
    if (reason == TPX_C_CLOSED_CLEAN) sys::AllowGracefulClose(side.fd.get());
    side.fd.Reset();
    // The poll still holds the socket: it is this that closes it for its peer.
    if (side.polled) {
      ring_.Cancel(io::Token{.index = session.index, .generation = session.generation, .kind = s}.Pack(),
                   kReport);
    }
  }
  FreeIfQuiet(session);
}

void Relay::FreeIfQuiet(Session& session) {
  if (session.ready || session.side[kClient].polled || session.side[kServer].polled) return;
  sessions_.Free(session);
}

bool Relay::Expire(DeadlineList& list, tpx_worker_counter reason, uint64_t now_ms) {
  DeadlineHook* hook = list.Expired(now_ms);
  if (hook == nullptr) return false;
  auto& session = static_cast<Session&>(*hook);
  if (session.phase != Phase::kResetting) {
    Close(session, reason);
    return true;
  }
  resetting_.Add(session, now_ms);
  CheckDelivered(session, now_ms);
  return true;
}

void Relay::RunTimeouts(uint64_t now_ms) {
  for (uint32_t n = 0; n < kTurnTimeouts; ++n) {
    const bool found = Expire(connecting_, TPX_C_CONNECT_TIMEOUT, now_ms) ||
                       Expire(idle_, TPX_C_CLOSED_IDLE, now_ms) ||
                       Expire(half_closed_, TPX_C_CLOSED_HALF_IDLE, now_ms) ||
                       Expire(resetting_, TPX_C_CLOSED_CLIENT_RESET, now_ms);
    if (!found) return;
  }
}

uint64_t Relay::NextTimeout() const {
  return std::min(
      {connecting_.NextExpiry(), idle_.NextExpiry(), half_closed_.NextExpiry(), resetting_.NextExpiry()});
}

void Relay::ResetAll(tpx_worker_counter reason) {
  sessions_.ForEach([&](Session& session) {
    if (session.phase != Phase::kClosing) Close(session, reason);
  });
}

}  // namespace tpx::data
