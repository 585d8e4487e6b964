// SPDX-License-Identifier: Apache-2.0
#include "tpx/sys/file_lock.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include <cstdlib>
#include <thread>

namespace tpx::sys {
namespace {

using std::chrono::milliseconds;

class FileLockTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/tpx-lock-XXXXXX";
    dir_ = mkdtemp(pattern);
    path_ = dir_ + "/sub/lock";
  }
  void TearDown() override { EXPECT_EQ(system(("rm -r " + dir_).c_str()), 0); }
  std::string dir_, path_;
};

TEST_F(FileLockTest, SecondOwnerIsRefusedAndToldWhoHasIt) {
  const auto first = FileLock::Acquire(path_, milliseconds(0));
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(FileLock::Holder(path_), getpid());
  const auto second = FileLock::Acquire(path_, milliseconds(50));
  EXPECT_TRUE(absl::IsUnavailable(second.status()));
  EXPECT_THAT(std::string(second.status().message()),
              ::testing::HasSubstr("is locked by process " + std::to_string(getpid())));
}

TEST_F(FileLockTest, GoesWithItsOwner) {
  { ASSERT_TRUE(FileLock::Acquire(path_, milliseconds(0)).ok()); }
  EXPECT_EQ(FileLock::Holder(path_), std::nullopt);
  EXPECT_TRUE(FileLock::Acquire(path_, milliseconds(0)).ok());
}

TEST_F(FileLockTest, WaiterNoticesThatTheDirectoryWasRemoved) {
  auto first = FileLock::Acquire(path_, milliseconds(0));
  ASSERT_TRUE(first.ok());
  std::thread waiter([&] {
    const auto second = FileLock::Acquire(path_, milliseconds(5000));
    EXPECT_TRUE(second.ok()) << second.status();
    EXPECT_EQ(FileLock::Holder(path_), getpid());
  });
  EXPECT_EQ(unlink(path_.c_str()), 0);
  EXPECT_EQ(rmdir((dir_ + "/sub").c_str()), 0);
  first = absl::CancelledError();
  waiter.join();
}

}  // namespace
}  // namespace tpx::sys
