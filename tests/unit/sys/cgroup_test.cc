// SPDX-License-Identifier: Apache-2.0
#include "tpx/sys/cgroup.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tpx/base/strings.h"
#include "tpx/sys/mountinfo.h"

namespace tpx::sys {
namespace {

TEST(ParseMounts, ReadsWhatTheKernelWrites) {
  const auto mounts = ParseMounts(
      "36 35 98:1 / / rw,noatime - ext4 /dev/root rw\n"
      "41 31 0:38 / /sys/fs/cgroup/unified rw shared:3 master:1 - cgroup2 cgroup2 rw,nsdelegate\n"
      "77 36 259:7 /a\\040b /mnt/c\\134d\\040e rw - btrfs /dev/nvme0n1 rw,subvol=/a\\040b\n");
  ASSERT_EQ(mounts.size(), 3u);
  EXPECT_EQ(mounts[0].id, 36u);
  EXPECT_EQ(mounts[0].device, 98u << 20 | 1);
  EXPECT_EQ(mounts[0].path, "/");
  EXPECT_EQ(mounts[0].type, "ext4");
  EXPECT_EQ(mounts[1].path, "/sys/fs/cgroup/unified");
  EXPECT_EQ(mounts[1].type, "cgroup2");
  EXPECT_EQ(mounts[2].device, 259u << 20 | 7);
  EXPECT_EQ(mounts[2].root, "/a b");
  EXPECT_EQ(mounts[2].path, "/mnt/c\\d e");
}

TEST(ParseMounts, LeavesOutWhatIsNoMount) {
  for (const char* text : {"", "\n\n", "36 35 98:1 / / rw", "x 35 98:1 / / rw - ext4 a rw",
                           "36 35 98 / / rw - ext4 a rw", "36 35 98:1 / / rw -", "- - - - - - - -"}) {
    EXPECT_TRUE(ParseMounts(text).empty()) << text;
  }
}

TEST(Cgroup, RootIsTheMountOfVersion2) {
  const auto root = Cgroup2Root();
  if (!root.ok()) GTEST_SKIP() << root.status();
  EXPECT_EQ(access((*root + "/cgroup.procs").c_str(), F_OK), 0) << *root;
  struct stat st {};
  ASSERT_EQ(stat(root->c_str(), &st), 0);
  const auto id = CgroupId("/");
  ASSERT_TRUE(id.ok()) << id.status();
  EXPECT_EQ(*id, st.st_ino);
}

TEST(Cgroup, OneThatIsNotThereIsNotFound) {
  if (!Cgroup2Root().ok()) GTEST_SKIP() << "no cgroup v2";
  EXPECT_TRUE(absl::IsNotFound(CgroupId("/tpx-there-is-none").status()));
  EXPECT_TRUE(absl::IsNotFound(CgroupId("/cgroup.procs").status()));
}

TEST(Cgroup, IdIsOfTheFolderBelowTheRoot) {
  const auto root = Cgroup2Root();
  if (!root.ok() || getuid() != 0) GTEST_SKIP() << "needs root and cgroup v2";
  const std::string path = StrCat("/tpx-test-", getpid());
  ASSERT_EQ(mkdir((*root + path).c_str(), 0755), 0);
  struct stat st {};
  EXPECT_EQ(stat((*root + path).c_str(), &st), 0);
  const auto id = CgroupId(path);
  rmdir((*root + path).c_str());
  ASSERT_TRUE(id.ok()) << id.status();
  EXPECT_EQ(*id, st.st_ino);
}

}  // namespace
}  // namespace tpx::sys
