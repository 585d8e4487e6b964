// SPDX-License-Identifier: Apache-2.0
#include "tpx/sys/file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>

namespace tpx::sys {
namespace {

class FileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/tpx-file-XXXXXX";
    dir_ = mkdtemp(pattern);
  }
  void TearDown() override { EXPECT_EQ(system(("rm -r " + dir_).c_str()), 0); }
  std::string dir_;
};

TEST_F(FileTest, AtomicWriteReplacesAndLeavesNoTemporary) {
  const std::string path = dir_ + "/f";
  ASSERT_TRUE(WriteFileAtomic(path, "old").ok());
  ASSERT_TRUE(WriteFileAtomic(path, "new").ok());
  EXPECT_EQ(*ReadFile(path), "new");
  struct stat st {};
  EXPECT_NE(stat((path + ".tmp").c_str(), &st), 0);
  ASSERT_EQ(stat(path.c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0600U);
}

TEST_F(FileTest, FileThatIsTooLongIsNotRead) {
  ASSERT_TRUE(WriteFileAtomic(dir_ + "/f", std::string(100, 'x')).ok());
  EXPECT_TRUE(ReadFile(dir_ + "/f", 100).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(ReadFile(dir_ + "/f", 99).status()));
}

TEST_F(FileTest, MissingFileIsNotFound) { EXPECT_TRUE(absl::IsNotFound(ReadFile(dir_ + "/none").status())); }

TEST_F(FileTest, MakesAllDirectoriesOnTheWay) {
  EXPECT_TRUE(MakeDirectories(dir_ + "/a/b/c", 0700).ok());
  EXPECT_TRUE(MakeDirectories(dir_ + "/a/b/c", 0700).ok());
  ASSERT_TRUE(WriteFileAtomic(dir_ + "/f", "").ok());
  EXPECT_FALSE(MakeDirectories(dir_ + "/f", 0700).ok());
  EXPECT_FALSE(MakeDirectories(dir_ + "/f/g", 0700).ok());
}

TEST_F(FileTest, RemoveTellsWhetherThereWasAnything) {
  ASSERT_TRUE(WriteFileAtomic(dir_ + "/f", "").ok());
  EXPECT_TRUE(*Remove(dir_ + "/f"));
  EXPECT_FALSE(*Remove(dir_ + "/f"));
  ASSERT_TRUE(MakeDirectories(dir_ + "/d/e", 0700).ok());
  EXPECT_FALSE(Remove(dir_ + "/d").ok());
}

TEST_F(FileTest, AppenderAddsLines) {
  for (const char* line : {"one", "two"}) {
    auto file = SyncedAppender::Open(dir_ + "/f");
    ASSERT_TRUE(file.ok());
    ASSERT_TRUE(file->Append(line).ok());
  }
  EXPECT_EQ(*ReadFile(dir_ + "/f"), "one\ntwo\n");
}

}  // namespace
}  // namespace tpx::sys
