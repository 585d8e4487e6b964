// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "tpx/base/unique_fd.h"

namespace tpx::data {

// A pipe as a place for bytes on their way from one socket to another.
struct Pipe {
  UniqueFd out;  // read end
  UniqueFd in;   // write end
  uint32_t capacity = 0;
};

// Lends pipes to directions that move bulk. A pipe costs 10 to 18 us to make
// and up to 1 MiB while it is full, so there are few and they are used again.
// Only empty pipes come back; one with bytes in it is discarded.
class PipePool {
 public:
  static constexpr uint32_t kWantedBytes = 1 << 20;   // fs.pipe-max-size of an unprivileged process
  static constexpr uint32_t kUsefulBytes = 64 << 10;  // below, copying is as good

  explicit PipePool(uint32_t max_pipes);

  // nullptr when all are lent, or when the system gives no useful pipe (limits
  // on descriptors, or fs.pipe-user-pages-soft); the latter is tried again
  // after a second at the earliest.
  Pipe* Borrow(uint64_t now_ms);
  void Return(Pipe* pipe);
  void Discard(Pipe* pipe);

  uint32_t size() const { return size_; }  // in the pool and lent

 private:
  std::vector<Pipe> pipes_;   // never grows: lent pointers stay valid
  std::vector<Pipe*> empty_;  // slots without a pipe
  std::vector<Pipe*> idle_;
  uint32_t size_ = 0;
  uint64_t retry_ms_ = 0;
};

}  // namespace tpx::data
