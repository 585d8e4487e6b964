// SPDX-License-Identifier: Apache-2.0
#include "tpx/sys/cgroup.h"

#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <cerrno>
#include <vector>

#include "tpx/base/status.h"
#include "tpx/base/strings.h"
#include "tpx/sys/mountinfo.h"

namespace tpx::sys {
namespace {

// Not where something else is mounted above it.
bool IsCgroup2(const std::string& path) {
  struct statfs fs {};
  return statfs(path.c_str(), &fs) == 0 && static_cast<uint32_t>(fs.f_type) == CGROUP2_SUPER_MAGIC;
}

}  // namespace

absl::StatusOr<std::string> Cgroup2Root() {
  TPX_ASSIGN_OR_RETURN(const std::vector<MountPoint> mounts, ListMounts());
  for (const bool usual : {true, false}) {  // others are for containers and the like
    for (const MountPoint& mount : mounts) {
      if (mount.type == "cgroup2" && mount.root == "/" && mount.path.starts_with("/sys/fs/cgroup") == usual &&
          IsCgroup2(mount.path)) {
        return mount.path;
      }
    }
  }
  return absl::NotFoundError(
      "cgroup v2 is not mounted; mount it with 'mount -t cgroup2 cgroup2 /sys/fs/cgroup'");
}

absl::StatusOr<std::string> CgroupFolder(std::string_view path) {
  TPX_ASSIGN_OR_RETURN(const std::string root, Cgroup2Root());
  const std::string folder = path == "/" ? root : StrCat(root, path);
  struct stat st {};
  if (stat(folder.c_str(), &st) != 0) return ErrnoStatus(errno, folder);
  if (!S_ISDIR(st.st_mode)) return absl::NotFoundError(StrCat(folder, " is no cgroup"));
  return folder;
}

absl::StatusOr<uint64_t> CgroupId(std::string_view path) {
  TPX_ASSIGN_OR_RETURN(const std::string folder, CgroupFolder(path));
  struct stat st {};
  if (stat(folder.c_str(), &st) != 0) return ErrnoStatus(errno, folder);
  return st.st_ino;
}

}  // namespace tpx::sys
