// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "tpx/data/udp_table.h"
#include "tpx_nat.h"

namespace tpx::data {

// Tells tc whose a session's port is (tpx_upstreams), so that answers to it go to the client without the
// worker, from the first one on, where the rule leaves that open and nobody would miss them in the stack.
// What tc does not take comes to the session's socket as ever. Nothing here is a system call
// but for the number of the port.
//
// A session is seen to have answers when it has other traffic, when it would have to go, and twice a second.
class UdpAnswers {
 public:
  // `upstreams`: TPX_UPSTREAMS of them, or none: then tc takes nothing. Both must outlive it.
  UdpAnswers(uint32_t worker, std::span<tpx_upstream> upstreams, UdpTable& table);

  // Its socket has got a port of the gateway's own.
  void Announce(UdpSession& session);
  // Before the socket gives it up: when it returns, tc begins nothing with it any more.
  void Withdraw(UdpSession& session);
  // Adds to session.down what tc has sent since the last time. Whether there was any.
  bool Note(UdpSession& session);
  // And gives the session the place in the table that it has by these. Whether it is another one.
  bool Refresh(UdpSession& session, uint64_t now_ms);

  // Refreshes all of them; a part in each call.
  void Look(uint64_t now_ms);
  // Where sessions have to make room: who waits for an answer is told from who had it by these looks alone.
  void LookSoon(uint64_t now_ms);
  // Refreshes those that wait for the longest time, as far as is known. Whether one did not.
  bool LookAtWaiting(uint64_t now_ms);
  uint64_t NextLook() const;
  // When one was last found that had some.
  uint64_t busy_ms() const { return busy_ms_; }

 private:
  tpx_upstream& At(const UdpSession& session) const;

  const uint32_t worker_;
  const std::span<tpx_upstream> upstreams_;
  UdpTable& table_;
  uint32_t chunk_ = 0;  // of the table, that is next in this round
  uint32_t left_ = 0;   // open sessions, of this round
  uint64_t next_round_ms_ = 0;
  uint64_t busy_ms_ = 0;
};

}  // namespace tpx::data
