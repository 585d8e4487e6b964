// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "absl/container/flat_hash_map.h"
#include "absl/container/node_hash_map.h"
#include "tpx/data/slot_table.h"
#include "tpx/data/udp_session.h"

namespace tpx::data {

struct UdpLimits {
  uint32_t sessions = 0;
  uint32_t sessions_per_client = 0;   // per address
  uint32_t masqueraded = UINT32_MAX;  // of each family; with a port of the gateway's own each
  uint32_t one_way_ms = 0;            // nothing has come back
  uint32_t answered_ms = 0;           // DNS: as many answers as queries, a few
  uint32_t stream_ms = 0;             // everything else
};

// The sessions of a worker: by key, by age, by client.
//
// A full table takes a new session in the place of the one that was idle for
// the longest time: of those to which nothing has come back where they are more
// than an eighth, and 16 (a flood of forged senders has no others), else of the others.
// A client at its own limit replaces one of its own, and so does in a full table
// one that has at least 32 and twice what clients have on average, so that a busy
// one cannot drive out others. Ports of the gateway's own are a limit by themselves: where few are left
// the kernel needs a millisecond to find one.
class UdpTable {
 public:
  explicit UdpTable(const UdpLimits& limits);

  UdpSession* Find(const UdpKey& key);
  UdpSession* FindByIndex(uint32_t index, uint32_t generation) { return slots_.Find(index, generation); }

  // Whom a new session of this client would have to replace; nullptr when there is room.
  UdpSession* Victim(const IpAddr& client, bool preserved);
  // Whose time is up, or nullptr.
  UdpSession* Expired(uint64_t now_ms) const;
  uint64_t NextExpiry() const;
  UdpSession* Oldest() const;  // idle for the longest time; nullptr when none is open
  // As Oldest, of those of a family with a port of the gateway's own; nullptr also where many others come
  // before it.
  UdpSession* OldestMasqueraded(bool v4) const;
  // Whether its first answer may be on the way: who has its port in a moment would get it.
  static bool IsAwaited(const UdpSession& session, uint64_t now_ms);

  // A new open session: `spare`, or one without a socket; nullptr only when too
  // many closed ones still wait for their last completion.
  UdpSession* Open(const UdpKey& key, bool preserved, uint64_t now_ms, UdpSession* spare = nullptr);
  // Notes traffic, which may change the session's class.
  void Touch(UdpSession& session, uint64_t now_ms);
  // As Touch, for answers that are noticed later, of which the last came at `at_ms`: it does not get in front
  // of those that were touched meanwhile, unless it was silent before for longer than lists distinguish.
  // Whether it has another place now.
  bool TouchLate(UdpSession& session, uint64_t at_ms);
  // Takes it out; it stays allocated until Free.
  void Close(UdpSession& session);
  void Free(UdpSession& session) { slots_.Free(session); }

  uint32_t open() const { return static_cast<uint32_t>(by_key_.size()); }
  uint32_t live() const { return slots_.live(); }

  // Those to which nothing has come back, the first `count` of them, oldest first; `visit` may Touch them.
  template <typename Visit>
  void ForOldestOneWay(uint32_t count, Visit&& visit) {
    DeadlineHook* hook = one_way_.Oldest();
    for (uint32_t n = 0; hook != nullptr && n < count; ++n) {
      DeadlineHook& visited = *hook;
      hook = one_way_.After(visited);
      visit(static_cast<UdpSession&>(visited));
    }
  }
  template <typename Visit>
  void ForEach(Visit&& visit) {
    slots_.ForEach(visit);
  }
  // A part of them; false: there is none of that number.
  template <typename Visit>
  bool ForEachIn(uint32_t chunk, Visit&& visit) {
    return slots_.ForEachIn(chunk, visit);
  }

 private:
  template <typename Choose>
  UdpSession* FirstToGo(Choose&& choose) const;
  bool IsBusy(const UdpClient& client) const;
  bool IsFlooded() const;
  DeadlineList& ListOf(const UdpSession& session);
  void LinkNewest(UdpSession& session);
  void Unlink(UdpSession& session);

  const UdpLimits limits_;
  SlotTable<UdpSession> slots_;
  absl::flat_hash_map<UdpKey, UdpSession*> by_key_;
  absl::node_hash_map<IpAddr, UdpClient> clients_;
  DeadlineList one_way_, answered_, stream_;
  uint32_t masqueraded_[2] = {};  // clients of IPv6, of IPv4
};

}  // namespace tpx::data
