// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "tpx/base/address.h"
#include "tpx/data/shared_slot.h"
#include "tpx_affinity.h"

namespace tpx::data {

// Tells tc which clients' endpoints have sessions with this worker (tpx_affinities), so that their other
// flows come to it, too. No system call; all workers write to the same memory, mostly not to the same words.
//
// Once another process has taken the slot over nothing is written any more: what counts are left of this one
// are cleared by that one, or keep an endpoint with its worker for longer than need be.
class UdpAffinity {
 public:
  // `affinities`: TPX_AFFINITIES of them, or none. Both must outlive it.
  UdpAffinity(uint32_t worker, std::span<tpx_affinity> affinities, const SharedSlot& slot)
      : worker_(worker), affinities_(affinities), slot_(slot) {}

  // A session of the client begins; the first one of its endpoint decides for the others.
  void Enter(const Endpoint& client);
  // One that has entered ends.
  void Leave(const Endpoint& client);

 private:
  template <typename Change>
  void Apply(const Endpoint& client, Change&& change);

  const uint32_t worker_;
  const std::span<tpx_affinity> affinities_;
  const SharedSlot& slot_;
};

}  // namespace tpx::data
