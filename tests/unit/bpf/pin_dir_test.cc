// SPDX-License-Identifier: Apache-2.0
#include "tpx/bpf/pin_dir.h"

#include <gmock/gmock.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>

namespace tpx::bpf {
namespace {

// The rules about names, owners and modes hold on any file system.
class PinDirTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/tpx-pins-XXXXXX";
    root_ = mkdtemp(pattern);
    dir_ = root_ + "/tpx";
  }
  void TearDown() override { EXPECT_EQ(system(("rm -r " + root_).c_str()), 0); }
  std::string root_, dir_;
  std::vector<std::string> notes_;
};

TEST_F(PinDirTest, StageIsBesideAndHasNoDots) {
  EXPECT_EQ(StageDir("/sys/fs/bpf/tpx"), "/sys/fs/bpf/tpx-stage");
  EXPECT_EQ(PinRoot("/sys/fs/bpf/tpx"), "/sys/fs/bpf");
}

TEST_F(PinDirTest, PublishNeverReplaces) {
  ASSERT_TRUE(CreatePinDir(StageDir(dir_)).ok());
  ASSERT_TRUE(CreatePinDir(dir_).ok());
  EXPECT_TRUE(absl::IsAlreadyExists(PublishPinDir(StageDir(dir_), dir_)));
  ASSERT_TRUE(*RemovePinDir(dir_));
  EXPECT_TRUE(PublishPinDir(StageDir(dir_), dir_).ok());
  EXPECT_TRUE(Exists(dir_));
}

TEST_F(PinDirTest, WideModesAreNarrowedAndNoted) {
  ASSERT_TRUE(CreatePinDir(dir_).ok());
  std::ofstream(dir_ + "/a") << "";
  chmod(dir_.c_str(), 0755);
  chmod((dir_ + "/a").c_str(), 0666);
  ASSERT_TRUE(SecurePinDir(dir_, notes_).ok());
  EXPECT_EQ(notes_.size(), 2U);
  struct stat st {};
  stat((dir_ + "/a").c_str(), &st);
  EXPECT_EQ(st.st_mode & 0777, 0600U);
  notes_.clear();
  ASSERT_TRUE(SecurePinDir(dir_, notes_).ok());
  EXPECT_THAT(notes_, ::testing::IsEmpty());
}

TEST_F(PinDirTest, ForeignOwnerIsRefused) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root: chown";
  ASSERT_TRUE(CreatePinDir(dir_).ok());
  ASSERT_EQ(chown(dir_.c_str(), 65534, 65534), 0);
  EXPECT_TRUE(absl::IsPermissionDenied(SecurePinDir(dir_, notes_)));
}

TEST_F(PinDirTest, RootThatOthersCanChangeIsRefused) {
  chmod(root_.c_str(), 0777);
  EXPECT_TRUE(absl::IsPermissionDenied(CheckPinRoot(root_, notes_)));
  chmod(root_.c_str(), 01777);
  EXPECT_TRUE(CheckPinRoot(root_, notes_).ok());
  EXPECT_EQ(notes_.size(), 1U);
}

TEST_F(PinDirTest, RemovingNothingIsFine) {
  EXPECT_FALSE(*RemovePinDir(dir_));
  EXPECT_TRUE(ListPins(dir_)->empty());
}

}  // namespace
}  // namespace tpx::bpf
