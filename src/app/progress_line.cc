// SPDX-License-Identifier: Apache-2.0
#include "progress_line.h"

#include <unistd.h>

#include <utility>

#include "tpx/base/strings.h"

namespace tpx::app {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kPatience{500};
constexpr milliseconds kPause{100};
constexpr std::string_view kClear = "\r\033[K";

}  // namespace

ProgressLine::ProgressLine(int fd, std::function<Clock::time_point()> now)
    : fd_(fd), terminal_(isatty(fd) == 1), now_(std::move(now)), next_(now_() + kPatience) {}

ProgressLine::~ProgressLine() {
  if (shown_) Write(kClear);
}

void ProgressLine::Show(std::string_view text) {
  if (!terminal_ || now_() < next_) return;
  next_ = now_() + kPause;
  shown_ = true;
  Write(StrCat(kClear, text));
}

void ProgressLine::Write(std::string_view bytes) const {
  // A terminal that takes no more misses a line that would go away anyway.
  [[maybe_unused]] const ssize_t written = write(fd_, bytes.data(), bytes.size());
}

}  // namespace tpx::app
