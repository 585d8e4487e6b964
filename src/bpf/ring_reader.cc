// SPDX-License-Identifier: Apache-2.0
#include "tpx/bpf/ring_reader.h"

#include <bpf/libbpf.h>
#include <linux/bpf.h>

#include <cerrno>

#include "tpx/bpf/map.h"

namespace tpx::bpf {
namespace {

// Of OnRecord: ends the call behind this record. No error of the library's own.
constexpr int kEnough = -EINTR;

}  // namespace

void RingBuffer::Free::operator()(ring_buffer* ring) const { ring_buffer__free(ring); }

absl::StatusOr<RingBuffer> RingBuffer::OpenPinned(const std::string& path, size_t record_bytes) {
  TPX_ASSIGN_OR_RETURN(UniqueFd map, OpenPinnedMap(path, {BPF_MAP_TYPE_RINGBUF, 0, 0}, Access::kReadWrite));
  RingBuffer reader(std::move(map), std::make_unique<Reading>(Reading{.record_bytes = record_bytes}));
  reader.ring_.reset(ring_buffer__new(reader.map_.get(), OnRecord, reader.reading_.get(), nullptr));
  if (reader.ring_ == nullptr) return ErrnoStatus(errno, StrCat("map ring buffer ", path));
  return reader;
}

int RingBuffer::OnRecord(void* reading, void* record, size_t bytes) {
  auto& r = *static_cast<Reading*>(reading);
  // Of another size: by a program of another version. It counts as none.
  if (bytes != r.record_bytes) return 0;
  ++r.taken;
  return (*r.take)(record) ? 0 : kEnough;
}

absl::StatusOr<size_t> RingBuffer::Drain(const Take& take) {
  reading_->take = &take;
  reading_->taken = 0;
  const int result = ring_buffer__consume(ring_.get());
  reading_->take = nullptr;
  if (result < 0 && result != kEnough) return ErrnoStatus(-result, "read of a ring buffer");
  return reading_->taken;
}

int RingBuffer::fd() const { return ring_buffer__epoll_fd(ring_.get()); }

}  // namespace tpx::bpf
