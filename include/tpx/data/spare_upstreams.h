// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "absl/functional/function_ref.h"
#include "tpx/data/deadline_list.h"
#include "tpx/data/udp_session.h"

namespace tpx::data {

// Upstream sockets of sessions that have ended, for those to come. A session of one exchange costs less than
// its socket: making it, its options, its receive request, and ending that again, for which the kernel
// walks through the ring's other requests.
//
// A spare session is closed, but has its socket, whose receive request stays armed. The socket has given up
// its port and its peer, so nothing arrives there any more, and the next session takes a new port. Nothing
// that was under way to the one before may reach it: a socket rests for a moment, and is then passed on only
// if it was seen empty, of what it has to send as well.
//
// A pair's socket is for pairs: one of IPv6 goes on to take only its peer's datagrams until it is connected
// again (sk_v6_daddr outlives a connect to nobody), and its flow label stays.
class SpareUpstreams {
 public:
  static constexpr uint32_t kMost = 2048;

  SpareUpstreams();

  // Takes a closed session with a receiving socket. False: not one that another session could have, or
  // there are enough; the caller closes it.
  bool Keep(UdpSession& session, uint64_t now_ms);
  // One with a socket for such a session, otherwise as new; nullptr when there is none.
  UdpSession* Take(const UdpKey& key, const Endpoint& target);
  // Between turns: finds out which of them are empty, unless completions are waiting; gives to `close`
  // those that nobody needed or that have an error; it must remove them.
  void Examine(uint64_t now_ms, absl::FunctionRef<bool()> is_idle,
               absl::FunctionRef<void(UdpSession&)> close);
  UdpSession* Any() const;  // still in here; nullptr when there is none
  static void Remove(UdpSession& session) { DeadlineList::Remove(session); }

  uint32_t size() const;
  uint64_t NextTimeout() const;

 private:
  void Look(uint64_t now_ms, absl::FunctionRef<bool()> is_idle, absl::FunctionRef<void(UdpSession&)> close);

  DeadlineList resting_;
  DeadlineList ready_[4];  // by pair and family
};

}  // namespace tpx::data
