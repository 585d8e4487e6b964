// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "tpx/io/token.h"

namespace tpx::data {

// Sessions by index. They never move: memory grows by chunks and is used again,
// the last freed first, because it is still in the cache.
//
// T is default-constructible and assignable, and has `index`, `generation` and
// is_free(), which is true of a T{}.
template <typename T>
class SlotTable {
 public:
  // Room for `capacity` indices; chunks are allocated as they are needed.
  explicit SlotTable(uint32_t capacity) : capacity_((capacity + kChunk - 1) / kChunk * kChunk) {
    chunks_.reserve(capacity_ / kChunk);
    free_.reserve(capacity_);
  }

  T* Allocate() {  // nullptr at capacity
    if (free_.empty() && !Grow()) return nullptr;
    T& slot = At(free_.back());
    free_.pop_back();
    ++live_;
    return &slot;
  }

  void Free(T& slot) {
    const uint32_t index = slot.index;
    const uint32_t generation = (slot.generation + 1) & io::Token::kGenerationMask;
    slot = T{};
    slot.index = index;
    slot.generation = generation;
    free_.push_back(index);
    --live_;
  }

  // The one that a completion belongs to, or nullptr if it has gone.
  T* Find(uint32_t index, uint32_t generation) {
    if (index / kChunk >= chunks_.size()) return nullptr;
    T& slot = At(index);
    return !slot.is_free() && slot.generation == generation ? &slot : nullptr;
  }

  uint32_t live() const { return live_; }

  // Calls `visit` for every one that isn't free; it may free the one it is given.
  template <typename Visit>
  void ForEach(Visit&& visit) {
    for (uint32_t chunk = 0; ForEachIn(chunk, visit);) ++chunk;
  }

  // As ForEach, for one chunk of them; false: there is none of that number.
  template <typename Visit>
  bool ForEachIn(uint32_t chunk, Visit&& visit) {
    if (chunk >= chunks_.size()) return false;
    for (uint32_t i = 0; i < kChunk; ++i) {
      if (T& slot = chunks_[chunk][i]; !slot.is_free()) visit(slot);
    }
    return true;
  }

 private:
  static constexpr uint32_t kChunk = 256;

  T& At(uint32_t index) { return chunks_[index / kChunk][index % kChunk]; }

  bool Grow() {
    const uint32_t first = static_cast<uint32_t>(chunks_.size()) * kChunk;
    if (first >= capacity_) return false;
    chunks_.push_back(std::make_unique<T[]>(kChunk));
    for (uint32_t i = kChunk; i-- > 0;) {
      chunks_.back()[i].index = first + i;
      free_.push_back(first + i);
    }
    return true;
  }

  const uint32_t capacity_;
  std::vector<std::unique_ptr<T[]>> chunks_;
  std::vector<uint32_t> free_;
  uint32_t live_ = 0;
};

}  // namespace tpx::data
