// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>

#include "tpx/base/address.h"
#include "tpx_abi.h"

namespace tpx::data {

// What the kernel side decided for a flow, where the listener alone does not
// tell: redirected ones, and pairs. Asked once per session, and again where
// flows were taken away.
class DecisionSource {
 public:
  virtual ~DecisionSource() = default;
  // Nothing: it was forgotten (the table evicts the oldest). Called by all
  // workers' threads.
  virtual std::optional<tpx_verdict> Find(const tpx_flow& flow) = 0;
  // An address of the gateway itself, of whose own flows of UDP the kernel side keeps none.
  virtual bool IsGateway(const IpAddr& address) = 0;
  // Another number than before: UDP flows were taken out since, so that a session
  // may have none left. Cheap enough for every datagram.
  virtual uint32_t UdpEnded() = 0;
  // For who accepts the connection and asks where the client wanted to go
  // (SO_ORIGINAL_DST). Before the socket connects to `actual`; nothing follows from
  // a failure but that nobody can tell.
  virtual void NoteOriginal(int upstream_fd, const Endpoint& original, const Endpoint& actual) = 0;
};

// Which sessions of UDP such a flow is for.
tpx_listener UdpListenerOf(const tpx_verdict& verdict);

tpx_flow FlowOf(uint8_t protocol, const Endpoint& source, const Endpoint& destination);
Endpoint TargetOf(const tpx_verdict& verdict);  // of a redirect
tpx_target ToTarget(const Endpoint& endpoint);

}  // namespace tpx::data
