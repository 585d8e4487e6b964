// SPDX-License-Identifier: Apache-2.0
#include "app/progress_line.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <pty.h>
#include <unistd.h>

#include "tpx/base/unique_fd.h"

namespace tpx::app {
namespace {

using std::chrono::milliseconds;

class ProgressLineTest : public testing::Test {
 protected:
  ProgressLineTest() {
    int master = -1, slave = -1;
    EXPECT_EQ(openpty(&master, &slave, nullptr, nullptr, nullptr), 0);
    master_.Reset(master);
    slave_.Reset(slave);
    EXPECT_EQ(fcntl(master, F_SETFL, O_NONBLOCK), 0);
  }

  std::string Seen() const { return ReadAll(master_.get()); }
  static std::string ReadAll(int fd) {
    char buffer[4096];
    const ssize_t n = read(fd, buffer, sizeof(buffer));
    return n <= 0 ? "" : std::string(buffer, static_cast<size_t>(n));
  }

  UniqueFd master_, slave_;
  ProgressLine::Clock::time_point now_;
};

TEST_F(ProgressLineTest, ShowsNothingForHalfASecond) {
  {
    ProgressLine line(slave_.get(), [this] { return now_; });
    line.Show("1 %");
    now_ += milliseconds(499);
    line.Show("2 %");
    EXPECT_EQ(Seen(), "");
  }
  EXPECT_EQ(Seen(), "");
}

TEST_F(ProgressLineTest, RewritesOneLineNowAndThenAndTakesItAway) {
  {
    ProgressLine line(slave_.get(), [this] { return now_; });
    now_ += milliseconds(500);
    line.Show("1 %");
    line.Show("2 %");
    EXPECT_EQ(Seen(), "\r\033[K1 %");
    now_ += milliseconds(100);
    line.Show("3 %");
    EXPECT_EQ(Seen(), "\r\033[K3 %");
  }
  EXPECT_EQ(Seen(), "\r\033[K");
}

TEST_F(ProgressLineTest, WritesNothingIntoAPipe) {
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_NONBLOCK | O_CLOEXEC), 0);
  const UniqueFd reader(ends[0]), writer(ends[1]);
  {
    ProgressLine line(writer.get(), [this] { return now_; });
    now_ += milliseconds(5000);
    line.Show("1 %");
  }
  EXPECT_EQ(ReadAll(reader.get()), "");
}

}  // namespace
}  // namespace tpx::app
