// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "tpx/base/address.h"

namespace tpx::data {

// How many ICMP errors may be sent: in all, as RFC 1812, 4.3.2.8 asks for, and
// to one client, as the kernel does for what it forwards. Otherwise whoever
// forges senders would have the gateway send to them more than it does without
// the proxy.
//
// One for all workers, or their number would multiply the limit; from any thread.
// While a limit is reached nothing is written.
class IcmpBudget {
 public:
  static constexpr uint32_t kPerSecond = 1000;  // as many at once
  static constexpr uint32_t kBurst = 6;         // to one client; then one each second

  // `own`: this machine is where the error arose, so nobody else has limited it.
  // `now_ms` is monotonic and never 0.
  bool Take(const IpAddr& client, bool own, uint64_t now_ms);

 private:
  // When a bucket that leaks at a constant rate will be empty.
  using Bucket = std::atomic<uint64_t>;
  // Clients whose addresses have the same hash share what they may have.
  static constexpr size_t kBuckets = 4096;

  static bool Fill(Bucket& bucket, uint64_t each_ms, uint64_t capacity_ms, uint64_t now_ms);

  Bucket all_{0};
  std::array<Bucket, kBuckets> clients_{};
};

}  // namespace tpx::data
