// SPDX-License-Identifier: Apache-2.0
#include "tpx/base/log.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <time.h>

#include <chrono>
#include <string>
#include <thread>

#include "absl/strings/str_split.h"
#include "tpx/base/unique_fd.h"

namespace tpx {
namespace {

using testing::ElementsAre;

// Puts another descriptor in the place of standard error.
class StandardError {
 public:
  explicit StandardError(int fd) : saved_(fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3)) {
    dup2(fd, STDERR_FILENO);
  }
  ~StandardError() { dup2(saved_.get(), STDERR_FILENO); }

 private:
  UniqueFd saved_;
};

struct Ends {
  UniqueFd reader, writer;
};

Ends MakePipe() {
  int fds[2];
  EXPECT_EQ(pipe2(fds, O_CLOEXEC), 0);
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

// What was written so far, as lines.
std::vector<std::string> Drain(int fd) {
  fcntl(fd, F_SETFL, O_NONBLOCK);
  std::string text;
  char buffer[4096];
  for (ssize_t n; (n = read(fd, buffer, sizeof(buffer))) > 0;) text.append(buffer, static_cast<size_t>(n));
  return absl::StrSplit(text, '\n', absl::SkipEmpty());
}

// The limit counts within seconds of the clock: begin each test in a fresh one.
class Log : public testing::Test {
 protected:
  void SetUp() override {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    std::this_thread::sleep_for(std::chrono::nanoseconds(1'005'000'000 - now.tv_nsec));
  }
  void TearDown() override { SetLogLevel(LogLevel::kInfo); }
};

TEST_F(Log, WritesOneLineForEachMessage) {
  Ends ends = MakePipe();
  {
    StandardError redirect(ends.writer.get());
    LogError("cannot open ", std::string_view("x"), ": ", 5);
    LogWarning("two\nlines\x1b[31m");
    LogDebug("not shown");
    SetLogLevel(LogLevel::kDebug);
    LogDebug("shown");
  }
  EXPECT_THAT(Drain(ends.reader.get()),
              ElementsAre("error cannot open x: 5", "warning two lines [31m", "debug shown"));
}

TEST_F(Log, SaysHowManyLinesWereLeftOut) {
  Ends ends = MakePipe();
  {
    StandardError redirect(ends.writer.get());
    for (int i = 0; i < 150; ++i) LogInfo("line ", i);
    SetUp();
    LogInfo("later");
  }
  std::vector<std::string> lines = Drain(ends.reader.get());
  ASSERT_EQ(lines.size(), 102u);
  EXPECT_EQ(lines[99], "info line 99");
  EXPECT_EQ(lines[100], "warning 50 lines were left out");
  EXPECT_EQ(lines[101], "info later");
}

TEST_F(Log, LosesLinesRatherThanWaits) {
  Ends ends = MakePipe();
  fcntl(ends.writer.get(), F_SETPIPE_SZ, 4096);
  {
    StandardError redirect(ends.writer.get());
    for (int i = 0; i < 50; ++i) LogInfo(std::string(1000, 'x'));
  }
  EXPECT_LT(Drain(ends.reader.get()).size(), 5u);
}

TEST_F(Log, DoesNotWaitForASocketNorMindItsEnd) {
  int fds[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
  Ends ends{UniqueFd(fds[0]), UniqueFd(fds[1])};
  StandardError redirect(ends.writer.get());
  for (int i = 0; i < 90; ++i) LogInfo(std::string(4000, 'x'));
  ends.reader.Reset();
  LogInfo("to nobody");
}

TEST_F(Log, DoesNotMindAPipeWithoutReader) {
  Ends ends = MakePipe();
  ends.reader.Reset();
  StandardError redirect(ends.writer.get());
  LogInfo("to nobody");
}

}  // namespace
}  // namespace tpx
