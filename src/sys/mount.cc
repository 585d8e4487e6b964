// SPDX-License-Identifier: Apache-2.0
#include "tpx/sys/mount.h"

#include <dirent.h>
#include <linux/magic.h>
#include <sys/mount.h>
#include <sys/vfs.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "tpx/base/status.h"
#include "tpx/base/strings.h"

namespace tpx::sys {
namespace {

absl::StatusOr<bool> IsEmpty(const std::string& path) {
  std::unique_ptr<DIR, int (*)(DIR*)> dir(opendir(path.c_str()), closedir);
  if (dir == nullptr) return ErrnoStatus(errno, StrCat("opendir ", path));
  while (const dirent* entry = readdir(dir.get())) {
    const std::string_view name = entry->d_name;
    // The kernel may put iterators of its own ("maps.debug") into the root.
    if (name != "." && name != ".." && !name.ends_with(".debug")) return false;
  }
  return true;
}

}  // namespace

absl::StatusOr<bool> IsBpffs(const std::string& path) {
  struct statfs fs {};
  if (statfs(path.c_str(), &fs) != 0) return ErrnoStatus(errno, StrCat("statfs ", path));
  return static_cast<uint32_t>(fs.f_type) == BPF_FS_MAGIC;
}

absl::Status MountBpffs(const std::string& path) {
  TPX_ASSIGN_OR_RETURN(bool empty, IsEmpty(path));
  if (!empty) {
    return absl::FailedPreconditionError(
        StrCat(path, " is no BPF file system and not empty; mount one with 'mount -t bpf bpf DIR'"));
  }
  if (mount("bpf", path.c_str(), "bpf", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0700") != 0) {
    return ErrnoStatus(errno, StrCat("mount -t bpf bpf ", path));
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> UnmountBpffsIfEmpty(const std::string& path) {
  absl::StatusOr<bool> is_bpffs = IsBpffs(path);
  if (!is_bpffs.ok() || !*is_bpffs) return false;
  TPX_ASSIGN_OR_RETURN(bool empty, IsEmpty(path));
  if (!empty) return false;
  // Busy: somebody else uses it by now, so it is no longer ours to remove.
  if (umount2(path.c_str(), UMOUNT_NOFOLLOW) != 0) {
    if (errno == EBUSY || errno == EINVAL) return false;
    return ErrnoStatus(errno, StrCat("umount ", path));
  }
  return true;
}

absl::StatusOr<UniqueFd> OpenDetachedBpffs() {
  UniqueFd context(fsopen("bpf", FSOPEN_CLOEXEC));
  if (!context) return ErrnoStatus(errno, "open a BPF file system");
  if (fsconfig(context.get(), FSCONFIG_SET_STRING, "mode", "0700", 0) != 0 ||
      fsconfig(context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0)
    return ErrnoStatus(errno, "create a BPF file system");
  UniqueFd directory(
      fsmount(context.get(), FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC));
  if (!directory) return ErrnoStatus(errno, "mount a BPF file system");
  return directory;
}

std::string PathOf(const UniqueFd& directory) { return StrCat("/proc/self/fd/", directory.get()); }

}  // namespace tpx::sys
