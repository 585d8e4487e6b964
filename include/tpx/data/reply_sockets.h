// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>

#include "absl/container/node_hash_map.h"
#include "tpx/base/address.h"
#include "tpx/base/unique_fd.h"
#include "tpx/data/deadline_list.h"
#include "tpx/data/shared_slot.h"

namespace tpx::data {

// Sockets that answer clients from the address and port that they sent to: one
// per such endpoint, shared by all clients, because binding many sockets to one
// endpoint takes the kernel time that grows with their number. When the cache
// is full the one used least recently goes. Whether a raw socket has to stand in
// is tried anew for each that is opened.
class ReplySockets {
 public:
  // `before_close` is told of each descriptor that is about to be closed.
  ReplySockets(uint32_t capacity, uint32_t mark, uint32_t idle_ms, SharedSlot& slot,
               std::function<void(int fd)> before_close);

  struct Socket {
    int fd;    // borrowed, valid until the next call; or a negative errno
    bool raw;  // of sys/udp_raw.h: a service of this machine holds that port on all addresses
  };
  Socket Get(const Endpoint& source, uint64_t now_ms);

  void Expire(uint64_t now_ms);
  uint64_t NextExpiry() const { return by_use_.NextExpiry(); }

 private:
  struct Entry : DeadlineHook {
    Endpoint source;
    UniqueFd fd;
    bool raw = false;
  };

  void Drop(Entry& entry);

  const uint32_t capacity_, mark_;
  SharedSlot& slot_;
  const std::function<void(int)> before_close_;
  absl::node_hash_map<Endpoint, Entry> entries_;
  DeadlineList by_use_;
};

}  // namespace tpx::data
