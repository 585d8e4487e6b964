// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "absl/status/statusor.h"
#include "tpx/base/address.h"
#include "tpx/base/unique_fd.h"

namespace tpx::sys {

// What an ICMP error says, for both families.
enum class IcmpProblem : uint8_t {
  kNone,
  kPortUnreachable,
  kHostUnreachable,
  kNetworkUnreachable,
  kProhibited,
  kTooBig,        // IPv4: fragmentation needed
  kTimeExceeded,  // hop limit
};
IcmpProblem IcmpProblemOf(bool v4, uint8_t type, uint8_t code);  // kNone: nothing to tell a client

// An ICMP error about a UDP datagram of `source` to `destination`, of which it
// quotes the headers and as much as the RFCs 1812 and 4443 ask for.
struct IcmpError {
  IcmpProblem problem = IcmpProblem::kNone;
  IpAddr from;  // of the ICMP message; need not be local
  Endpoint source, destination;
  uint32_t mtu = 0;  // of kTooBig
  std::span<const char> payload;
};

// Sends ICMP errors from any address, as a router or a far host would. Not
// thread-safe.
class IcmpSender {
 public:
  static absl::StatusOr<IcmpSender> Create(uint32_t mark);  // needs CAP_NET_RAW
  int Send(const IcmpError& error);                         // 0 or a negative errno; never blocks

 private:
  IcmpSender(UniqueFd v4, UniqueFd v6) : v4_(std::move(v4)), v6_(std::move(v6)) {}
  UniqueFd v4_, v6_;
};

// The machine's own address towards `to`: what a socket of this mark would send from. Empty where there is no
// way.
IpAddr SourceTowards(const IpAddr& to, uint32_t mark = 0);

}  // namespace tpx::sys
