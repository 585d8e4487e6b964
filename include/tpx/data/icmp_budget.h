// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>

#include "tpx/base/address.h"

namespace tpx::data {

// How many ICMP errors may be sent: in all, as RFC 1812, 4.3.2.8 asks for, and
// to one client, as the kernel does for what it forwards. Otherwise whoever
// forges senders would have the gateway send to them more than it does without
// the proxy.
class IcmpBudget {
 public:
  static constexpr uint32_t kPerSecond = 1000;
  static constexpr uint32_t kBurst = 6;  // to one client; then one each second

  IcmpBudget() { tokens_.fill(kBurst); }

  void Refill(uint64_t now_ms);  // to be called at least every few seconds
  // `own`: this machine is where the error arose, so nobody else has limited it.
  bool Take(const IpAddr& client, bool own);

 private:
  // Clients whose addresses have the same hash share what they may have.
  static constexpr size_t kBuckets = 4096;

  uint64_t window_ms_ = 0;
  uint32_t left_ = kPerSecond;
  std::array<uint8_t, kBuckets> tokens_;
};

}  // namespace tpx::data
