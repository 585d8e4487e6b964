// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "tpx/data/descriptors.h"
#include "tpx/data/pipe_pool.h"
#include "tpx/data/pump.h"
#include "tpx/data/session.h"
#include "tpx/data/shared_slot.h"
#include "tpx/data/slot_table.h"
#include "tpx/data/worker.h"
#include "tpx/io/ring.h"
#include "tpx/io/token.h"

namespace tpx::data {

// The sessions of one worker, from the started connection to the last close.
//
// Completions only note what is ready and queue their session; RunReady does
// the work, so several completions of one session cost one visit and no
// session can hold up the others.
//
// How a session ends
//  - FIN becomes FIN. After both were passed on, both sockets are closed in
//    order, in the background.
//  - RST (or a time-out of TCP) becomes RST, after what was received before it
//    has been delivered: the other socket is closed when its peer has
//    acknowledged everything, after kDeliverMs at the latest.
//  - Everything else resets both sides at once, also that somebody destroyed one
//    of the sockets (SOCK_DESTROY): a policy that ends a session does so.
class Relay {
 public:
  static constexpr uint64_t kDeliverMs = 2000;
  static constexpr uint32_t kRecheckMs = 10;

  // Token kinds; those of sockets are kClient and kServer.
  static constexpr uint8_t kIgnoredKind = 255;

  // `ring`, `slot` and `descriptors` must outlive it.
  Relay(const WorkerOptions& options, io::Ring& ring, SharedSlot& slot, Descriptors& descriptors);

  // Takes a session whose server side is connecting.
  void Start(UniqueFd client, UniqueFd server, uint64_t now_ms);

  // A completion of kind kClient or kServer.
  void OnCompletion(io::Token token, const io::Ring::Completion& completion);

  // Works on sessions that are ready, up to a limit; false: none is left.
  bool RunReady(uint64_t now_ms);
  void RunTimeouts(uint64_t now_ms);
  uint64_t NextTimeout() const;  // in the clock of now_ms

  // Resets every session.
  void ResetAll(tpx_worker_counter reason);

  uint32_t open() const { return open_; }             // sessions that are relayed or connecting
  uint32_t live() const { return sessions_.live(); }  // also those that wait for a last completion

 private:
  void Arm(Session& session, uint8_t side);
  void MakeReady(Session& session);
  void Visit(Session& session, uint64_t now_ms);
  void FinishConnect(Session& session, uint64_t now_ms);
  void Advance(Session& session, uint64_t now_ms);
  void PumpDirection(Session& session, uint8_t direction, uint64_t now_ms);
  void BeginReset(Session& session, uint8_t broken, uint64_t now_ms);
  void CheckDelivered(Session& session, uint64_t now_ms);
  void Close(Session& session, tpx_worker_counter reason);
  void FreeIfQuiet(Session& session);
  bool Expire(DeadlineList& list, tpx_worker_counter reason, uint64_t now_ms);

  io::Ring& ring_;
  SharedSlot& slot_;
  Descriptors& descriptors_;
  PipePool pipes_;
  Pump pump_;
  SlotTable<Session> sessions_;
  DeadlineList connecting_;
  DeadlineList idle_;
  DeadlineList half_closed_;
  DeadlineList resetting_;
  Session* ready_first_ = nullptr;
  Session* ready_last_ = nullptr;
  uint32_t open_ = 0;
};

}  // namespace tpx::data
