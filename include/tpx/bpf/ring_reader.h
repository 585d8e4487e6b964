// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>

#include "absl/status/statusor.h"
#include "tpx/base/status.h"
#include "tpx/base/unique_fd.h"

struct ring_buffer;

namespace tpx::bpf {

// The reading end of a pinned ring buffer. One reader at a time: what it takes, no other one gets.
class RingBuffer {
 public:
  // Takes a record of the size given; false ends the call.
  using Take = std::function<bool(const void* record)>;

  static absl::StatusOr<RingBuffer> OpenPinned(const std::string& path, size_t record_bytes);

  // Gives what is there to `take`, never waits. How many were given.
  absl::StatusOr<size_t> Drain(const Take& take);
  // Readable when the kernel says that something is there.
  int fd() const;

 private:
  struct Reading {
    size_t record_bytes = 0;
    const Take* take = nullptr;
    size_t taken = 0;
  };
  struct Free {
    void operator()(ring_buffer* ring) const;
  };
  RingBuffer(UniqueFd map, std::unique_ptr<Reading> reading)
      : map_(std::move(map)), reading_(std::move(reading)) {}
  static int OnRecord(void* reading, void* record, size_t bytes);

  UniqueFd map_;
  std::unique_ptr<Reading> reading_;  // the library keeps its address
  std::unique_ptr<ring_buffer, Free> ring_;
};

// Whose records have one C++ type.
template <typename T>
class RingReader {
  static_assert(std::has_unique_object_representations_v<T> && sizeof(T) % 8 == 0);

 public:
  static absl::StatusOr<RingReader> OpenPinned(const std::string& path) {
    TPX_ASSIGN_OR_RETURN(RingBuffer ring, RingBuffer::OpenPinned(path, sizeof(T)));
    return RingReader(std::move(ring));
  }
  // `take` returns whether to go on.
  absl::StatusOr<size_t> Drain(const std::function<bool(const T&)>& take) {
    return ring_.Drain([&take](const void* record) { return take(*static_cast<const T*>(record)); });
  }
  int fd() const { return ring_.fd(); }

 private:
  explicit RingReader(RingBuffer ring) : ring_(std::move(ring)) {}
  RingBuffer ring_;
};

}  // namespace tpx::bpf
