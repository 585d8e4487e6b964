// SPDX-License-Identifier: Apache-2.0
#include "tpx/data/pipe_pool.h"

#include <fcntl.h>
#include <unistd.h>

namespace tpx::data {
namespace {

constexpr uint64_t kRetryMs = 1000;

// Fills `pipe` and returns true if the system gives one of a useful size.
bool Open(Pipe& pipe) {
  int ends[2];
  if (pipe2(ends, O_NONBLOCK | O_CLOEXEC) != 0) return false;
  Pipe made{.out = UniqueFd(ends[0]), .in = UniqueFd(ends[1]), .capacity = 0};
  int got = fcntl(ends[1], F_SETPIPE_SZ, PipePool::kWantedBytes);
  if (got < 0) got = fcntl(ends[1], F_GETPIPE_SZ);  // refused: what it was made with
  if (got < static_cast<int>(PipePool::kUsefulBytes)) return false;
  made.capacity = static_cast<uint32_t>(got);
  pipe = std::move(made);
  return true;
}

}  // namespace

PipePool::PipePool(uint32_t max_pipes) : pipes_(max_pipes) {
  empty_.reserve(max_pipes);
  idle_.reserve(max_pipes);
  for (Pipe& pipe : pipes_) empty_.push_back(&pipe);
}

Pipe* PipePool::Borrow(uint64_t now_ms) {
  if (!idle_.empty()) {
    Pipe* pipe = idle_.back();
    idle_.pop_back();
    return pipe;
  }
  if (empty_.empty() || now_ms < retry_ms_) return nullptr;
  Pipe* pipe = empty_.back();
  if (!Open(*pipe)) {
    retry_ms_ = now_ms + kRetryMs;
    return nullptr;
  }
  empty_.pop_back();
  ++size_;
  return pipe;
}

void PipePool::Return(Pipe* pipe) { idle_.push_back(pipe); }

void PipePool::Discard(Pipe* pipe) {
  *pipe = Pipe{};
  empty_.push_back(pipe);
  --size_;
}

}  // namespace tpx::data
