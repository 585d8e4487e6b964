// SPDX-License-Identifier: Apache-2.0
#include "tpx/sys/identity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

namespace tpx::sys {
namespace {

TEST(Identity, UsersAndGroupsByName) {
  EXPECT_EQ(*UserId("root"), 0u);
  EXPECT_EQ(*GroupId("root"), 0u);
  EXPECT_EQ(*UserId("daemon"), 1u);
  const auto none = UserId("tpx-there-is-none");
  EXPECT_TRUE(absl::IsNotFound(none.status())) << none.status();
  EXPECT_EQ(none.status().message(), "there is no user 'tpx-there-is-none'");
  EXPECT_EQ(GroupId("tpx-there-is-none").status().message(), "there is no group 'tpx-there-is-none'");
}

TEST(Identity, FileIsWhatItsLinksLeadTo) {
  char text[4096];
  const ssize_t n = readlink("/proc/self/exe", text, sizeof(text));
  ASSERT_GT(n, 0);
  const std::string path(text, static_cast<size_t>(n)), link = testing::TempDir() + "/identity-link";
  unlink(link.c_str());
  ASSERT_EQ(symlink(path.c_str(), link.c_str()), 0);
  struct stat st {};
  ASSERT_EQ(stat(path.c_str(), &st), 0);
  for (const std::string& name : {path, link}) {
    const auto file = IdentifyFile(name);
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_EQ(file->inode, st.st_ino);
    EXPECT_EQ(file->device, major(st.st_dev) << 20 | minor(st.st_dev));
  }
  unlink(link.c_str());
}

TEST(Identity, OnlyRegularFilesAreOne) {
  EXPECT_TRUE(absl::IsNotFound(IdentifyFile("/tpx/there/is/none").status()));
  EXPECT_EQ(IdentifyFile("/proc").status().message(), "/proc: not a regular file");
  EXPECT_EQ(IdentifyFile("/dev/null").status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace tpx::sys
