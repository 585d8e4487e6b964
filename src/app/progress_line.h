// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <functional>
#include <string_view>

namespace tpx::app {

// One line of a terminal that says how far something has come which takes long.
// Nothing is written during the first half second, nor where `fd` is no terminal.
class ProgressLine {
 public:
  using Clock = std::chrono::steady_clock;

  explicit ProgressLine(int fd, std::function<Clock::time_point()> now = Clock::now);
  ~ProgressLine();  // takes the line away
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  void Show(std::string_view text);

 private:
  void Write(std::string_view bytes) const;

  int fd_;
  bool terminal_;
  bool shown_ = false;
  std::function<Clock::time_point()> now_;
  Clock::time_point next_;
};

}  // namespace tpx::app
