// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>

#include "tpx/base/address.h"
#include "tpx_abi.h"

namespace tpx::data {

// What the kernel side decided for a flow, where the listener alone does not
// tell: redirected ones, and pairs. Asked once per session.
class DecisionSource {
 public:
  virtual ~DecisionSource() = default;
  // Nothing: it was forgotten (the table evicts the oldest). Called by all
  // workers' threads.
  virtual std::optional<tpx_verdict> Find(const tpx_flow& flow) = 0;
  // For who accepts the connection and asks where the client wanted to go
  // (SO_ORIGINAL_DST). Before the socket connects to `actual`; nothing follows from
  // a failure but that nobody can tell.
  virtual void NoteOriginal(int upstream_fd, const Endpoint& original, const Endpoint& actual) = 0;
};

tpx_flow FlowOf(uint8_t protocol, const Endpoint& source, const Endpoint& destination);
Endpoint TargetOf(const tpx_verdict& verdict);  // of a redirect
tpx_target ToTarget(const Endpoint& endpoint);

}  // namespace tpx::data
