// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tpx/base/address.h"

namespace tpx::data {

// True for a destination that the proxy never dials, whatever the policy says:
// addresses that mean this machine or this link, where a client could reach
// what is only meant for the gateway itself (loopback services, cloud metadata);
// groups, to which TCP cannot connect; and the proxy's own listener.
//
// The own listener is recognised when it is the proxy that dials it: client
// and destination are then the same address, because the kernel uses the
// destination as source for a connection to itself. That needs no list of
// local addresses and costs one turn of the loop.
bool IsForbidden(const Endpoint& client, const Endpoint& destination, uint16_t listen_port);

}  // namespace tpx::data
