// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "tpx/bpf/map.h"

namespace tpx::bpf {

// A memory-mapped file descriptor. Move-only.
class Mapping {
 public:
  static absl::StatusOr<Mapping> Create(int fd, size_t bytes, Access access);
  Mapping(Mapping&& other) noexcept
      : at_(std::exchange(other.at_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Mapping& operator=(Mapping&& other) noexcept {
    std::swap(at_, other.at_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Mapping();
  void* get() const { return at_; }

 private:
  Mapping(void* at, size_t bytes) : at_(at), bytes_(bytes) {}
  void* at_;
  size_t bytes_;
};

// The memory of an array map made with BPF_F_MMAPABLE, shared with BPF. Stays
// valid after the map is unpinned. The caller uses atomic
// accesses, and keeps to one writer per element unless it compares and swaps.
template <typename T>
class SharedArray {
  static_assert(sizeof(T) % 8 == 0, "array elements are rounded up to 8 bytes");

 public:
  static absl::StatusOr<SharedArray> OpenPinned(const std::string& path, size_t size, Access access) {
    // The kernel maps no map through a read-only descriptor; the mapping itself can be read-only.
    TPX_ASSIGN_OR_RETURN(UniqueFd fd, OpenPinnedMap(path, {BPF_MAP_TYPE_ARRAY, sizeof(uint32_t), sizeof(T)},
                                                    Access::kReadWrite));
    TPX_ASSIGN_OR_RETURN(Mapping mapping, Mapping::Create(fd.get(), size * sizeof(T), access));
    return SharedArray(std::move(mapping), size);
  }

  size_t size() const { return size_; }
  T& operator[](size_t index) const { return static_cast<T*>(mapping_.get())[index]; }

 private:
  SharedArray(Mapping mapping, size_t size) : mapping_(std::move(mapping)), size_(size) {}
  Mapping mapping_;
  size_t size_;
};

}  // namespace tpx::bpf
