// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <liburing.h>

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "tpx/io/ring.h"

namespace tpx::io {

// Buffers of one size that the kernel picks from for receive requests of one
// ring (provided buffers, Linux 5.19). A completion names the one it filled,
// which then belongs to us until it is returned. The memory is mapped and takes
// room only where it was written to.
class BufferRing {
 public:
  // `count` is a power of two. The ring must outlive the buffers.
  static absl::StatusOr<std::unique_ptr<BufferRing>> Create(Ring& ring, uint16_t group, uint16_t count,
                                                            uint32_t size);
  ~BufferRing();
  BufferRing(const BufferRing&) = delete;
  BufferRing& operator=(const BufferRing&) = delete;

  uint16_t group() const { return group_; }
  uint32_t size() const { return size_; }
  char* data(uint16_t id) { return memory_ + size_t{size_} * id; }
  void Return(uint16_t id);

 private:
  BufferRing(Ring& ring, uint16_t group, uint16_t count, uint32_t size)
      : ring_(ring), group_(group), count_(count), size_(size) {}

  size_t entries_size() const { return count_ * sizeof(io_uring_buf); }

  Ring& ring_;
  const uint16_t group_, count_;
  const uint32_t size_;
  io_uring_buf_ring* entries_ = nullptr;
  char* memory_ = nullptr;
};

}  // namespace tpx::io
