// SPDX-License-Identifier: Apache-2.0
#include "tpx/io/ring.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <vector>

#include "tpx/base/unique_fd.h"

namespace tpx::io {
namespace {

constexpr uint64_t kSecond = 1'000'000'000;

class RingTest : public testing::Test {
 protected:
  void SetUp() override {
    auto ring = Ring::Create(8, 64);
    if (!ring.ok()) GTEST_SKIP() << ring.status();
    ring_ = *std::move(ring);
    ASSERT_TRUE(ring_->Enable().ok());
  }
  std::vector<Ring::Completion> Wait(uint64_t timeout_ns) {
    EXPECT_EQ(ring_->SubmitAndWait(timeout_ns), 0);
    std::vector<Ring::Completion> out;
    ring_->Reap(1000, [&](const Ring::Completion& c) { out.push_back(c); });
    return out;
  }
  void Signal(int fd) {
    const uint64_t one = 1;
    ASSERT_EQ(write(fd, &one, sizeof(one)), 8);
  }
  std::unique_ptr<Ring> ring_;
};

TEST_F(RingTest, ReportsEachChangeOfAPolledFile) {
  UniqueFd fd(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  ring_->PollMultishot(fd.get(), POLLIN, 7);
  EXPECT_TRUE(Wait(0).empty());
  for (int i = 0; i < 3; ++i) {
    Signal(fd.get());
    const auto completions = Wait(kSecond);
    ASSERT_EQ(completions.size(), 1u);
    EXPECT_EQ(completions[0].token, 7u);
    EXPECT_TRUE(completions[0].more);
    EXPECT_EQ(completions[0].result, POLLIN);
  }
}

TEST_F(RingTest, EndsACancelledPollWithALastCompletion) {
  UniqueFd fd(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  ring_->PollMultishot(fd.get(), POLLIN, 7);
  Wait(0);
  Signal(fd.get());  // a completion is on its way when the poll is cancelled
  ring_->Cancel(7, 9);
  bool ended = false;
  for (int i = 0; i < 10 && !ended; ++i) {
    for (const Ring::Completion& c : Wait(kSecond / 100)) ended |= c.token == 7 && !c.more;
  }
  EXPECT_TRUE(ended);
}

TEST_F(RingTest, TakesMoreRequestsThanItsQueueHolds) {
  UniqueFd fd(eventfd(1, EFD_NONBLOCK | EFD_CLOEXEC));
  for (uint64_t i = 0; i < 50; ++i) ring_->PollMultishot(fd.get(), POLLIN, i);
  size_t seen = 0;
  for (int i = 0; i < 10 && seen < 50; ++i) seen += Wait(kSecond / 10).size();
  EXPECT_EQ(seen, 50u);
}

TEST_F(RingTest, WaitsNoLongerThanAsked) {
  timespec before{}, after{};
  clock_gettime(CLOCK_MONOTONIC, &before);
  EXPECT_TRUE(Wait(kSecond / 50).empty());
  clock_gettime(CLOCK_MONOTONIC, &after);
  const int64_t ms = (after.tv_sec - before.tv_sec) * 1000 + (after.tv_nsec - before.tv_nsec) / 1'000'000;
  EXPECT_GE(ms, 19);
  EXPECT_LT(ms, 500);
}

// The property on which closing a session relies.
TEST_F(RingTest, HoldsAClosedSocketUntilItsPollIsCancelled) {
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends), 0);
  UniqueFd other(ends[1]);
  ring_->PollMultishot(ends[0], POLLIN, 7);
  Wait(0);
  close(ends[0]);
  char byte = 0;
  EXPECT_EQ(read(other.get(), &byte, 1), -1) << "still open for the peer";
  ring_->Cancel(7, 9);
  Wait(kSecond);
  EXPECT_EQ(read(other.get(), &byte, 1), 0) << "end of file";
}

}  // namespace
}  // namespace tpx::io
