// SPDX-License-Identifier: Apache-2.0
#include "tpx/data/reply_sockets.h"

#include <cerrno>
#include <utility>

#include "tpx/sys/udp_raw.h"
#include "tpx/sys/udp_socket.h"

namespace tpx::data {

ReplySockets::ReplySockets(uint32_t capacity, uint32_t mark, uint32_t idle_ms, SharedSlot& slot,
                           std::function<void(int fd)> before_close)
    : capacity_(capacity),
      mark_(mark),
      slot_(slot),
      before_close_(std::move(before_close)),
      by_use_(idle_ms) {}

ReplySockets::Socket ReplySockets::Get(const Endpoint& source, uint64_t now_ms) {
  const auto found = entries_.find(source);
  if (found != entries_.end()) {
    by_use_.Touch(found->second, now_ms);
    return {.fd = found->second.fd.get(), .raw = found->second.raw};
  }
  if (entries_.size() >= capacity_) {
    Drop(static_cast<Entry&>(*by_use_.Oldest()));
    slot_.Add(TPX_C_UDP_REPLY_SOCKETS_REPLACED);
  }
  int fd = sys::OpenUdpReplier(source, mark_);
  const bool raw = fd == -EADDRINUSE;
  if (raw) fd = sys::OpenRawUdpReplier(source.addr, mark_);
  if (fd < 0) return {.fd = fd, .raw = raw};
  Entry& entry = entries_[source];
  entry.source = source;
  entry.fd.Reset(fd);
  entry.raw = raw;
  by_use_.Add(entry, now_ms);
  slot_.Set(TPX_C_UDP_REPLY_SOCKETS, entries_.size());
  return {.fd = fd, .raw = raw};
}

void ReplySockets::Expire(uint64_t now_ms) {
  while (DeadlineHook* hook = by_use_.Expired(now_ms)) Drop(static_cast<Entry&>(*hook));
}

void ReplySockets::Drop(Entry& entry) {
  before_close_(entry.fd.get());
  DeadlineList::Remove(entry);
  entries_.erase(Endpoint(entry.source));  // a copy: the key goes with the entry
  slot_.Set(TPX_C_UDP_REPLY_SOCKETS, entries_.size());
}

}  // namespace tpx::data
