// SPDX-License-Identifier: Apache-2.0
#include "tpx/bpf/shared_array.h"

#include <sys/mman.h>

#include <cerrno>

#include "tpx/base/status.h"

namespace tpx::bpf {

absl::StatusOr<Mapping> Mapping::Create(int fd, size_t bytes, Access access) {
  const int protection = access == Access::kReadOnly ? PROT_READ : PROT_READ | PROT_WRITE;
  void* at = mmap(nullptr, bytes, protection, MAP_SHARED, fd, 0);
  if (at == MAP_FAILED) return ErrnoStatus(errno, "mmap of a BPF array");
  return Mapping(at, bytes);
}

Mapping::~Mapping() {
  if (at_ != nullptr) munmap(at_, bytes_);
}

}  // namespace tpx::bpf
