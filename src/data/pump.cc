// SPDX-License-Identifier: Apache-2.0
#include "tpx/data/pump.h"

#include <fcntl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

namespace tpx::data {
namespace {

bool WouldBlock(int error) { return error == EAGAIN || error == EWOULDBLOCK; }

// Nothing more will come from `from`, and everything that came was sent.
PumpOutcome End(Direction& direction, const Side& from, Side& to) {
  // After a reset a socket also reads 0, once its error was taken.
  if (from.broken) return PumpOutcome::kSourceBroken;
  if (shutdown(to.fd.get(), SHUT_WR) != 0) {
    to.broken = true;
    return PumpOutcome::kSinkBroken;
  }
  direction.ended = true;
  return PumpOutcome::kEnded;
}

PumpOutcome OnReadError(int error, Side& from) {
  if (error == EINTR) return PumpOutcome::kTurnOver;
  if (WouldBlock(error)) {
    from.readable = false;
    return PumpOutcome::kWaiting;
  }
  from.broken = true;
  from.aborted = error == ECONNABORTED;
  return PumpOutcome::kSourceBroken;
}

PumpOutcome OnWriteError(int error, Side& to) {
  if (error == EINTR) return PumpOutcome::kTurnOver;
  if (WouldBlock(error)) {
    to.writable = false;
    return PumpOutcome::kWaiting;
  }
  to.broken = true;
  to.aborted = error == ECONNABORTED;
  return PumpOutcome::kSinkBroken;
}

// Reading stops at urgent data: a short read, or EAGAIN from splice(2), does
// not mean there that there is nothing more.
bool AtUrgentMark(const Side& from) { return sockatmark(from.fd.get()) > 0; }

// Takes `length` bytes that were peeked at off the queue, without a copy.
bool Consume(int fd, size_t length) {
  while (length > 0) {
    const ssize_t n = recv(fd, nullptr, length, MSG_TRUNC | MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    length -= static_cast<size_t>(n);
  }
  return true;
}

}  // namespace

Pump::Pump(PipePool& pool) : pool_(pool), scratch_(std::make_unique<std::byte[]>(kCopyBytes)) {}

PumpResult Pump::Run(Direction& direction, Side& from, Side& to, uint64_t now_ms) {
  PumpResult result;
  if (now_ms - direction.last_ms > kPauseMs) direction.burst = 0;
  bool may_borrow = true;
  while (result.bytes < kTurnBytes) {
    if (direction.pipe == nullptr && direction.burst >= kBulkBytes && may_borrow && from.readable &&
        to.writable && !from.no_splice) {
      direction.pipe = pool_.Borrow(now_ms);
      may_borrow = direction.pipe != nullptr;
      result.pipe_short = !may_borrow;
    }
    result.outcome =
        direction.pipe != nullptr ? Splice(direction, from, to, result) : Copy(direction, from, to, result);
    if (result.outcome != PumpOutcome::kTurnOver) break;
  }
  if (result.bytes > 0) {
    direction.last_ms = now_ms;
    direction.burst = static_cast<uint32_t>(std::min<uint64_t>(direction.burst + result.bytes, kBulkBytes));
  }
  return result;
}

PumpOutcome Pump::Copy(Direction& direction, Side& from, Side& to, PumpResult& result) {
  if (!from.readable || !to.writable) return PumpOutcome::kWaiting;
  const ssize_t seen = recv(from.fd.get(), scratch_.get(), kCopyBytes, MSG_PEEK | MSG_DONTWAIT);
  if (seen < 0) return OnReadError(errno, from);
  if (seen == 0) return End(direction, from, to);
  const ssize_t sent =
      send(to.fd.get(), scratch_.get(), static_cast<size_t>(seen), MSG_DONTWAIT | MSG_NOSIGNAL);
  if (sent < 0) return OnWriteError(errno, to);
  if (!Consume(from.fd.get(), static_cast<size_t>(sent))) {
    from.broken = true;
    return PumpOutcome::kSourceBroken;
  }
  result.bytes += static_cast<uint64_t>(sent);
  if (result.bytes >= kBulkBytes) direction.burst = kBulkBytes;
  if (sent < seen) {
    to.writable = false;
  } else if (seen < static_cast<ssize_t>(kCopyBytes) && !from.drain && !AtUrgentMark(from)) {
    from.readable = false;  // saves the call that would say so; what comes later is a change and is reported
  }
  return PumpOutcome::kTurnOver;
}

PumpOutcome Pump::Fill(Direction& direction, Side& from, Side& to) {
  const ssize_t n = splice(from.fd.get(), nullptr, direction.pipe->in.get(), nullptr,
                           direction.pipe->capacity, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
  if (n > 0) {
    direction.in_pipe = static_cast<uint32_t>(n);
    return PumpOutcome::kTurnOver;
  }
  if (n == 0) return End(direction, from, to);
  const int error = errno;
  // Urgent data stops splice(2) for good, but not recv(2); and some sockets do
  // not go with pipes at all.
  if (error == EINVAL || error == ENOMEM || (WouldBlock(error) && AtUrgentMark(from))) {
    from.no_splice = true;
    return PumpOutcome::kTurnOver;
  }
  return OnReadError(error, from);
}

PumpOutcome Pump::Empty(Direction& direction, Side& to, PumpResult& result) {
  const ssize_t n = splice(direction.pipe->out.get(), nullptr, to.fd.get(), nullptr, direction.in_pipe,
                           SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
  if (n <= 0) return OnWriteError(n == 0 ? EAGAIN : errno, to);
  direction.in_pipe -= static_cast<uint32_t>(n);
  result.bytes += static_cast<uint64_t>(n);
  result.spliced += static_cast<uint64_t>(n);
  return PumpOutcome::kTurnOver;
}

PumpOutcome Pump::Splice(Direction& direction, Side& from, Side& to, PumpResult& result) {
  if (direction.in_pipe > 0) {
    if (!to.writable) return PumpOutcome::kWaiting;
    const PumpOutcome outcome = Empty(direction, to, result);
    if (outcome == PumpOutcome::kSinkBroken) Abandon(direction);
    return outcome;
  }
  PumpOutcome outcome = PumpOutcome::kWaiting;
  if (from.readable && to.writable && !from.no_splice) outcome = Fill(direction, from, to);
  if (direction.in_pipe == 0) ReturnPipe(direction);
  // Without splice the copying goes on where the pipe left off.
  return from.no_splice && outcome == PumpOutcome::kWaiting ? PumpOutcome::kTurnOver : outcome;
}

void Pump::ReturnPipe(Direction& direction) {
  pool_.Return(direction.pipe);
  direction.pipe = nullptr;
}

void Pump::Abandon(Direction& direction) {
  direction.abandoned = true;
  if (direction.pipe == nullptr) return;
  direction.in_pipe == 0 ? pool_.Return(direction.pipe) : pool_.Discard(direction.pipe);
  direction.pipe = nullptr;
  direction.in_pipe = 0;
}

}  // namespace tpx::data
