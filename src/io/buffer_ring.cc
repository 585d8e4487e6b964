// SPDX-License-Identifier: Apache-2.0
#include "tpx/io/buffer_ring.h"

#include <sys/mman.h>

#include <cerrno>

#include "tpx/base/status.h"

namespace tpx::io {
namespace {

void* Map(size_t size) {
  void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return memory == MAP_FAILED ? nullptr : memory;
}

}  // namespace

absl::StatusOr<std::unique_ptr<BufferRing>> BufferRing::Create(Ring& ring, uint16_t group, uint16_t count,
                                                               uint32_t size) {
  std::unique_ptr<BufferRing> buffers(new BufferRing(ring, group, count, size));
  buffers->entries_ = static_cast<io_uring_buf_ring*>(Map(buffers->entries_size()));
  buffers->memory_ = static_cast<char*>(Map(size_t{size} * count));
  if (buffers->entries_ == nullptr || buffers->memory_ == nullptr) {
    return ErrnoStatus(errno, "mmap of receive buffers");
  }
  io_uring_buf_reg registration{};
  registration.ring_addr = reinterpret_cast<uint64_t>(buffers->entries_);
  registration.ring_entries = count;
  registration.bgid = group;
  const int result = io_uring_register_buf_ring(&ring.raw(), &registration, 0);
  if (result < 0) return ErrnoStatus(-result, "io_uring_register(PBUF_RING)");
  io_uring_buf_ring_init(buffers->entries_);
  for (uint16_t id = 0; id < count; ++id) buffers->Return(id);
  return buffers;
}

// The kernel lets go of the entries when the ring ends, or here.
BufferRing::~BufferRing() {
  if (entries_ != nullptr) {
    io_uring_unregister_buf_ring(&ring_.raw(), group_);
    munmap(entries_, entries_size());
  }
  if (memory_ != nullptr) munmap(memory_, size_t{size_} * count_);
}

void BufferRing::Return(uint16_t id) {
  io_uring_buf_ring_add(entries_, data(id), size_, id, io_uring_buf_ring_mask(count_), 0);
  io_uring_buf_ring_advance(entries_, 1);
}

}  // namespace tpx::io
