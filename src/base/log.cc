// SPDX-License-Identifier: Apache-2.0
#include "tpx/base/log.h"

#include <poll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <string>

#include "tpx/base/strings.h"

namespace tpx {
namespace {

constexpr uint32_t kLinesPerSecond = 100;
// PIPE_BUF: a line up to this size is one piece even with several writers, and
// fits a pipe that reports room.
constexpr size_t kMaxLineBytes = 4096;

struct LevelName {
  std::string_view text;
  std::string_view journal_prefix;  // sd-daemon(3)
};
constexpr LevelName kLevels[] = {{"error", "<3>"}, {"warning", "<4>"}, {"info", "<6>"}, {"debug", "<7>"}};

int64_t MonotonicSeconds() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec;
}

// Standard error is shared with other processes, so it is never made
// non-blocking; the single write is made not to wait instead.
void WriteOrLose(std::string_view line) {
  if (send(STDERR_FILENO, line.data(), line.size(), MSG_DONTWAIT | MSG_NOSIGNAL) >= 0 || errno != ENOTSOCK) {
    return;
  }
  pollfd ready{.fd = STDERR_FILENO, .events = POLLOUT, .revents = 0};
  if (poll(&ready, 1, 0) != 1 || (ready.revents & (POLLERR | POLLNVAL)) != 0) return;
  [[maybe_unused]] ssize_t written = write(STDERR_FILENO, line.data(), line.size());
}

class Logger {
 public:
  void set_level(LogLevel level) { level_.store(level, std::memory_order_relaxed); }

  void Write(LogLevel level, std::string_view message) {
    if (level > level_.load(std::memory_order_relaxed)) return;
    std::lock_guard lock(mutex_);
    int64_t second = MonotonicSeconds();
    if (second != second_) {
      second_ = second;
      lines_ = 0;
      if (left_out_ > 0) {
        ++lines_;
        WriteOrLose(Format(LogLevel::kWarning, StrCat(left_out_, " lines were left out")));
        left_out_ = 0;
      }
    }
    if (lines_ >= kLinesPerSecond) {
      ++left_out_;
      return;
    }
    ++lines_;
    WriteOrLose(Format(level, message));
  }

 private:
  // A message is one line whatever is quoted in it.
  std::string Format(LogLevel level, std::string_view message) const {
    const LevelName& name = kLevels[static_cast<size_t>(level)];
    std::string line = StrCat(journal_ ? name.journal_prefix : std::string_view(), name.text, " ",
                              message.substr(0, kMaxLineBytes - 32));
    for (char& c : line) {
      if (static_cast<unsigned char>(c) < ' ' || c == 0x7f) c = ' ';
    }
    line += '\n';
    return line;
  }

  const bool journal_ = getenv("JOURNAL_STREAM") != nullptr;
  std::atomic<LogLevel> level_{LogLevel::kInfo};
  std::mutex mutex_;
  int64_t second_ = 0;
  uint32_t lines_ = 0;
  uint64_t left_out_ = 0;
};

// Never destroyed: threads may log while the process exits.
Logger& TheLogger() {
  static Logger& logger = *new Logger;
  return logger;
}

}  // namespace

void SetLogLevel(LogLevel level) { TheLogger().set_level(level); }

void LogLine(LogLevel level, std::string_view message) { TheLogger().Write(level, message); }

}  // namespace tpx
