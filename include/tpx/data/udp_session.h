// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "tpx/base/address.h"
#include "tpx/base/unique_fd.h"
#include "tpx/data/deadline_list.h"
#include "tpx_abi.h"

namespace tpx::data {

// What one session serves: a client's endpoint, whatever it talks to (full
// cone, RFC 4787: endpoint-independent mapping and filtering); or, where the
// rule redirects or asks for address-and-port-dependent behaviour, the pair of
// endpoints. The listener that a datagram arrives at tells which.
struct UdpKey {
  Endpoint client;
  Endpoint destination;  // of the pair, as the client wrote it; else empty
  tpx_listener listener = TPX_LISTENER_UDP_MASQUERADE;

  bool is_pair() const { return listener == TPX_LISTENER_UDP_PAIR; }
  friend bool operator==(const UdpKey&, const UdpKey&) = default;

  template <typename H>
  friend H AbslHashValue(H state, const UdpKey& key) {
    return H::combine(std::move(state), key.client, key.destination, static_cast<int>(key.listener));
  }
};

struct UdpSession;

// The sessions of one client address, least recently used first.
struct UdpClient {
  uint32_t sessions = 0;
  UdpSession* oldest = nullptr;
  UdpSession* newest = nullptr;
};

// Invariants:
//  1. while open it is in the table under its key, on one deadline list and on
//     its client's list; while spare it is in SpareUpstreams alone;
//  2. it is freed only when its receive request has ended;
//  3. it owns no memory beyond this object.
struct UdpSession : DeadlineHook {
  static constexpr uint32_t kUntranslated = UINT32_MAX;

  enum class Phase : uint8_t { kFree, kOpen, kSpare, kClosing };

  UdpKey key;
  // Of a pair: where its datagrams go. Else only a port, that of all its destinations, or 0.
  Endpoint target;
  UdpClient* owner = nullptr;
  UdpSession* older = nullptr;
  UdpSession* newer = nullptr;
  UniqueFd upstream;
  uint32_t index = 0;
  uint32_t generation = 0;
  uint32_t translation = kUntranslated;  // index in UdpTranslations
  // Of UdpAnswers: the gateway's own, that tc knows of, 0: none; tpx_upstream.answers as it was last seen.
  uint16_t port = 0, answers = 0;
  uint32_t confirmed = 0;   // DecisionSource::UdpEnded() when a flow of it was last known to be there
  uint32_t armed_turn = 0;  // of the worker's loop, in which the receive request was made
  // Of UdpTranslations: receive calls of both directions since the last try to hand it over, and how many of
  // them are enough for the next one.
  uint16_t calls = 0, enough = 16;
  Phase phase = Phase::kFree;
  uint8_t up = 0, down = 0;    // receive calls in each direction, saturating
  bool receiving : 1 = false;  // the request is armed
  bool gone : 1 = false;       // the client is: closed at the end of the turn
  bool no_trains : 1 = false;  // one of the ways out can't segment
  bool preserved : 1 = false;  // the upstream socket has the client's address
  bool fragments : 1 = false;  // the kernel may fragment what it sends

  bool is_free() const { return phase == Phase::kFree; }
  // The family of the upstream socket.
  bool is_v4() const { return (key.is_pair() ? target.addr : key.client.addr).is_v4(); }
};

static_assert(sizeof(UdpSession) <= 256);

}  // namespace tpx::data
