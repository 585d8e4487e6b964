// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "tpx/base/unique_fd.h"
#include "tpx/data/deadline_list.h"
#include "tpx/data/pipe_pool.h"
#include "tpx_abi.h"

namespace tpx::data {

// The two sides of a session, and its two directions by the side they read.
enum : uint8_t { kClient = 0, kServer = 1, kSides = 2 };

// One socket. The flags say what is known of it: `readable` and `writable`
// hold until a call answers EAGAIN, because the ring tells changes only.
struct Side {
  UniqueFd fd;
  bool polled : 1 = false;
  bool readable : 1 = false;
  bool writable : 1 = false;
  bool drain : 1 = false;      // read until EAGAIN: a short read does not mean that there is no more
  bool no_splice : 1 = false;  // it does not go with pipes: bytes are copied
  bool aborted : 1 = false;    // somebody destroyed the socket; it is broken, too
  bool broken : 1 = false;     // RST, time-out: nothing can be sent; what came before can still be read
};

// The way of the bytes that `side[d]` sends, for direction d.
struct Direction {
  Pipe* pipe = nullptr;    // borrowed while in bulk
  uint32_t in_pipe = 0;    // bytes read but not yet sent
  uint32_t burst = 0;      // bytes since the last pause, saturating
  uint64_t last_ms = 0;    // of the last byte
  bool ended = false;      // its FIN was passed on, after every byte
  bool abandoned = false;  // its reader or its writer is gone
  bool done() const { return ended || abandoned; }
};

enum class Phase : uint8_t {
  kFree,
  kConnecting,  // to the server; the client's bytes wait in its socket
  kRelaying,
  kResetting,  // one side is broken; what it sent before is delivered first
  kClosing,    // sockets are closed; waits for the last completions of its polls
};

// Invariants:
//  1. a session is on the deadline list of its phase, or on none;
//  2. it is freed only when no poll of it is armed and it isn't on the ready list;
//  3. without pipes it owns no memory beyond this object.
struct Session : DeadlineHook {
  Side side[kSides];
  Direction direction[kSides];
  Session* next_ready = nullptr;
  uint64_t give_up_ms = 0;  // while resetting
  uint32_t index = 0;
  uint32_t generation = 0;
  Phase phase = Phase::kFree;
  bool ready = false;                              // on the ready list
  tpx_worker_counter reason = TPX_C_CLOSED_CLEAN;  // of the reset, while resetting

  bool is_free() const { return phase == Phase::kFree; }
};

static_assert(sizeof(Session) <= 256);

}  // namespace tpx::data
