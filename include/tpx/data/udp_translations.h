// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "tpx/base/address.h"
#include "tpx/data/decision_source.h"
#include "tpx/data/shared_slot.h"
#include "tpx/data/translation_map.h"
#include "tpx/data/udp_table.h"
#include "tpx_abi.h"

namespace tpx::data {

// The sessions of a worker whose datagrams tc translates and forwards, because
// their rule says forward: fib, or auto and nobody would miss them in the stack. One server for each session,
// that from which answers came when it had seen enough datagrams.
//
// A session goes on all the time: it has its socket and its place in the table,
// and whatever tc does not take comes to it. What tc forwards is seen here twice
// a second, so a session is as young as its last datagram by a second and a half.
class UdpTranslations {
 public:
  // All must outlive it. `own_mark` is that of the sessions' sockets.
  UdpTranslations(uint32_t worker, uint32_t own_mark, DecisionSource& decisions, TranslationMap& map,
                  SharedSlot& slot, UdpTable& table);

  // Datagrams came from `server` and go to the session's client; or go there, while tc
  // sends answers to the client. May hand both directions over to tc.
  void OnAnswer(UdpSession& session, const Endpoint& server, uint64_t now_ms);
  // Before its socket is closed.
  void TakeBack(UdpSession& session);
  // Whether tc has forwarded any of its datagrams within the last second.
  bool IsBusy(const UdpSession& session, uint64_t now_ms);

  // Touches in the table those that had datagrams, takes back those that had none
  // for a while; a part of them in each call.
  void Look(uint64_t now_ms);
  uint64_t NextLook() const;
  // When Look last found one that was busy.
  uint64_t busy_ms() const { return busy_ms_; }

 private:
  struct Direction {
    tpx_flow arriving;
    tpx_translation translation;  // as it was stored
  };
  struct Pair {
    UdpSession* session;
    Direction up, down;  // from the client, from the server
    // What tc had forwarded when it was last looked at.
    uint32_t seen_s = 0, up_seen_s = 0;
    bool tc_sent = false;  // of the client's datagrams, any
  };

  bool Prepare(const Endpoint& server, const tpx_verdict& verdict, Pair& pair) const;
  bool Store(const Pair& pair);
  void Erase(const Direction& direction);
  bool Refresh(Pair& pair);  // false: it is not there any more
  void LookAt(Pair& pair, uint64_t now_ms);

  const uint32_t worker_, own_mark_;
  DecisionSource& decisions_;
  TranslationMap& map_;
  SharedSlot& slot_;
  UdpTable& table_;
  std::vector<Pair> pairs_;
  size_t left_ = 0;  // of this round of looking
  uint64_t next_round_ms_ = 0;
  uint64_t busy_ms_ = 0;
};

}  // namespace tpx::data
