// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "tpx/data/session.h"

namespace tpx::data {

enum class PumpOutcome : uint8_t {
  kWaiting,       // until the source is readable or the sink writable
  kTurnOver,      // more could be moved; others first
  kEnded,         // the source's FIN was passed on, after every byte
  kSourceBroken,  // the source is broken and everything it sent was passed on
  kSinkBroken,
};

struct PumpResult {
  PumpOutcome outcome = PumpOutcome::kTurnOver;
  uint64_t bytes = 0;
  uint64_t spliced = 0;     // of these, through a pipe
  bool pipe_short = false;  // a pipe was wanted and not to be had
};

// Moves the bytes of one direction. It starts by copying: peek at what the
// source has, send, then discard exactly what was sent. Bytes thus wait in the
// source's socket and nowhere else; a slow sink closes the source's window and
// costs no memory. From kBulkBytes without a pause on, a borrowed pipe and
// splice(2) take over.
//
// Invariants:
//  1. the pipe is filled only while it is empty, so EAGAIN from the source
//     always means that the source is dry, never that the pipe is full;
//  2. a pipe with bytes stays with its direction until they are sent;
//  3. FIN is passed on only after EOF was read with the pipe empty.
//
// The calling thread must have SIGPIPE blocked: splice(2) to a socket has no
// MSG_NOSIGNAL.
class Pump {
 public:
  static constexpr uint32_t kCopyBytes = 64 << 10;
  static constexpr uint32_t kBulkBytes = 64 << 10;
  static constexpr uint64_t kTurnBytes = 2 << 20;
  static constexpr uint64_t kPauseMs = 20;

  // `pool` must outlive the pump.
  explicit Pump(PipePool& pool);

  PumpResult Run(Direction& direction, Side& from, Side& to, uint64_t now_ms);

  // Gives the direction up; bytes in its pipe are lost.
  void Abandon(Direction& direction);

 private:
  // Each moves something and returns kTurnOver, or says why it cannot.
  PumpOutcome Copy(Direction& direction, Side& from, Side& to, PumpResult& result);
  PumpOutcome Fill(Direction& direction, Side& from, Side& to);
  PumpOutcome Empty(Direction& direction, Side& to, PumpResult& result);
  PumpOutcome Splice(Direction& direction, Side& from, Side& to, PumpResult& result);
  void ReturnPipe(Direction& direction);

  PipePool& pool_;
  std::unique_ptr<std::byte[]> scratch_;
};

}  // namespace tpx::data
