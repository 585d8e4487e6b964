// SPDX-License-Identifier: Apache-2.0
#include "tpx/sys/identity.h"

#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "tpx/base/status.h"
#include "tpx/base/strings.h"
#include "tpx/sys/mountinfo.h"

namespace tpx::sys {
namespace {

constexpr size_t kMaxEntryBytes = 1 << 20;  // a group may have many members

// `call` is getpwnam_r or getgrnam_r.
template <typename Entry, typename Call>
absl::StatusOr<Entry> FindEntry(const std::string& name, const char* what, Call call) {
  std::vector<char> strings(1024);
  for (;;) {
    Entry entry{};
    Entry* found = nullptr;
    const int error = call(name.c_str(), &entry, strings.data(), strings.size(), &found);
    if (error == ERANGE && strings.size() < kMaxEntryBytes) {
      strings.resize(2 * strings.size());
      continue;
    }
    if (error == EINTR) continue;
    if (found != nullptr) return entry;
    // POSIX leaves open how "there is none" looks.
    if (error == 0 || error == ENOENT || error == ESRCH)
      return absl::NotFoundError(StrCat("there is no ", what, " ", Quote(name)));
    return ErrnoStatus(error, StrCat(what, " ", Quote(name)));
  }
}

}  // namespace

absl::StatusOr<uint32_t> UserId(const std::string& name) {
  TPX_ASSIGN_OR_RETURN(const passwd entry, FindEntry<passwd>(name, "user", getpwnam_r));
  return entry.pw_uid;
}

absl::StatusOr<uint32_t> GroupId(const std::string& name) {
  TPX_ASSIGN_OR_RETURN(const group entry, FindEntry<group>(name, "group", getgrnam_r));
  return entry.gr_gid;
}

absl::StatusOr<FileIdentity> IdentifyFile(const std::string& path) {
  struct statx file {};
  if (statx(AT_FDCWD, path.c_str(), 0, STATX_TYPE | STATX_INO | STATX_MNT_ID, &file) != 0)
    return ErrnoStatus(errno, path);
  if (!S_ISREG(file.stx_mode)) return absl::InvalidArgumentError(StrCat(path, ": not a regular file"));
  // Some file systems tell another device than the one that the kernel knows them by (btrfs: one for each
  // subvolume); the mounts tell the latter.
  TPX_ASSIGN_OR_RETURN(const std::vector<MountPoint> mounts, ListMounts());
  const auto mount = std::find_if(mounts.begin(), mounts.end(),
                                  [&](const MountPoint& m) { return m.id == file.stx_mnt_id; });
  if (mount == mounts.end()) return absl::InternalError(StrCat(path, ": its file system is mounted nowhere"));
  return FileIdentity{.inode = file.stx_ino, .device = mount->device};
}

}  // namespace tpx::sys
