// SPDX-License-Identifier: Apache-2.0
#include "tpx/data/session_table.h"

#include "tpx/io/token.h"

namespace tpx::data {

SessionTable::SessionTable(uint32_t capacity) : capacity_((capacity + kChunk - 1) / kChunk * kChunk) {
  chunks_.reserve(capacity_ / kChunk);
  free_.reserve(capacity_);
}

Session* SessionTable::Allocate() {
  if (free_.empty()) {
    const uint32_t first = static_cast<uint32_t>(chunks_.size()) * kChunk;
    if (first >= capacity_) return nullptr;
    chunks_.push_back(std::make_unique<Session[]>(kChunk));
    for (uint32_t i = kChunk; i-- > 0;) {
      chunks_.back()[i].index = first + i;
      free_.push_back(first + i);
    }
  }
  Session& session = chunks_[free_.back() / kChunk][free_.back() % kChunk];
  free_.pop_back();
  ++live_;
  return &session;
}

void SessionTable::Free(Session& session) {
  const uint32_t index = session.index;
  const uint32_t generation = (session.generation + 1) & io::Token::kGenerationMask;
  session = Session{};
  session.index = index;
  session.generation = generation;
  free_.push_back(index);
  --live_;
}

Session* SessionTable::Find(uint32_t index, uint32_t generation) {
  if (index / kChunk >= chunks_.size()) return nullptr;
  Session& session = chunks_[index / kChunk][index % kChunk];
  return session.phase != Phase::kFree && session.generation == generation ? &session : nullptr;
}

}  // namespace tpx::data
