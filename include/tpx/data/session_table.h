// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "tpx/data/session.h"

namespace tpx::data {

// Sessions by index. They never move: memory grows by chunks and is used again,
// the last freed first, because it is still in the cache.
class SessionTable {
 public:
  // Room for `capacity` indices; chunks are allocated as they are needed.
  explicit SessionTable(uint32_t capacity);

  Session* Allocate();  // nullptr at capacity
  void Free(Session& session);

  // The session that a completion belongs to, or nullptr if it has gone.
  Session* Find(uint32_t index, uint32_t generation);

  uint32_t live() const { return live_; }

  // Calls `visit` for every session that isn't free; it may free the one it is given.
  template <typename Visit>
  void ForEach(Visit&& visit) {
    for (auto& chunk : chunks_) {
      for (uint32_t i = 0; i < kChunk; ++i) {
        if (chunk[i].phase != Phase::kFree) visit(chunk[i]);
      }
    }
  }

 private:
  static constexpr uint32_t kChunk = 256;

  const uint32_t capacity_;
  std::vector<std::unique_ptr<Session[]>> chunks_;
  std::vector<uint32_t> free_;
  uint32_t live_ = 0;
};

}  // namespace tpx::data
