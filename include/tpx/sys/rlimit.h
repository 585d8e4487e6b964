// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace tpx::sys {

// Raises the limit of open descriptors: the soft limit to the hard one, and the
// hard one to `wanted` where that is more and allowed. Returns the soft limit
// that is in force afterwards; a refusal is no error.
uint64_t RaiseDescriptorLimit(uint64_t wanted);

// Has the kernel make the process's table of descriptors large enough for
// `count` of them, at most 262,144 (2 MB). It grows by doubling, and where threads
// share it each time waits for an RCU grace period, 10 ms and more during which a
// thread that opens something stands still. To be called before there are threads.
void ReserveDescriptorTable(uint64_t count);

// How many ports this namespace gives to sockets that ask for any one
// (net.ipv4.ip_local_port_range, which IPv6 uses too).
uint32_t EphemeralPorts();

}  // namespace tpx::sys
