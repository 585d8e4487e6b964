// SPDX-License-Identifier: Apache-2.0
#include "tpx/bpf/pin_dir.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <memory>

#include "absl/strings/str_format.h"
#include "tpx/base/status.h"
#include "tpx/base/strings.h"
#include "tpx/sys/file.h"

namespace tpx::bpf {
namespace {

constexpr mode_t kOthers = S_IRWXG | S_IRWXO;

absl::StatusOr<struct stat> Stat(const std::string& path) {
  struct stat st {};
  if (lstat(path.c_str(), &st) != 0) return ErrnoStatus(errno, StrCat("stat ", path));
  return st;
}

absl::Status Secure(const std::string& path, std::vector<std::string>& notes) {
  TPX_ASSIGN_OR_RETURN(struct stat st, Stat(path));
  if (st.st_uid != geteuid()) {
    return absl::PermissionDeniedError(
        StrCat(path, " belongs to user ", st.st_uid, "; remove it or use another instance name"));
  }
  if ((st.st_mode & kOthers) == 0) return absl::OkStatus();
  if (chmod(path.c_str(), st.st_mode & 07777 & ~kOthers) != 0)
    return ErrnoStatus(errno, StrCat("chmod ", path));
  notes.push_back(
      absl::StrFormat("%s was open to other users (mode %04o), closed it", path, st.st_mode & 07777));
  return absl::OkStatus();
}

}  // namespace

std::string StageDir(const std::string& dir) { return dir + "-stage"; }

std::string PinRoot(const std::string& dir) {
  const size_t slash = dir.rfind('/');
  return slash == std::string::npos || slash == 0 ? "/" : dir.substr(0, slash);
}

absl::Status CheckPinRoot(const std::string& root, std::vector<std::string>& notes) {
  TPX_ASSIGN_OR_RETURN(struct stat st, Stat(root));
  const mode_t mode = st.st_mode & 07777;
  const bool others_write = (mode & (S_IWGRP | S_IWOTH)) != 0;
  if ((st.st_uid != 0 && st.st_uid != geteuid()) || (others_write && (mode & S_ISVTX) == 0)) {
    return absl::PermissionDeniedError(absl::StrFormat(
        "other users could replace what is pinned in %s (owner %u, mode %04o); run 'chmod 0700 %s'", root,
        st.st_uid, mode, root));
  }
  if (others_write) {
    notes.push_back(
        absl::StrFormat("every user may make files in %s (mode %04o); the pins are protected by their own "
                        "directory, mode 0700",
                        root, mode));
  }
  return absl::OkStatus();
}

absl::Status SecurePinDir(const std::string& dir, std::vector<std::string>& notes) {
  TPX_RETURN_IF_ERROR(Secure(dir, notes));
  TPX_ASSIGN_OR_RETURN(std::vector<std::string> pins, ListPins(dir));
  for (const std::string& pin : pins) TPX_RETURN_IF_ERROR(Secure(StrCat(dir, "/", pin), notes));
  return absl::OkStatus();
}

bool Exists(const std::string& path) {
  struct stat st {};
  return lstat(path.c_str(), &st) == 0;
}

absl::Status CreatePinDir(const std::string& dir) {
  if (mkdir(dir.c_str(), 0700) != 0) return ErrnoStatus(errno, StrCat("mkdir ", dir));
  return absl::OkStatus();
}

absl::Status PublishPinDir(const std::string& stage, const std::string& dir) {
  if (renameat2(AT_FDCWD, stage.c_str(), AT_FDCWD, dir.c_str(), RENAME_NOREPLACE) != 0) {
    return ErrnoStatus(errno, StrCat("rename ", stage, " to ", dir));
  }
  return absl::OkStatus();
}

absl::Status MovePin(const std::string& from, const std::string& to) {
  if (rename(from.c_str(), to.c_str()) != 0) return ErrnoStatus(errno, StrCat("rename ", from, " to ", to));
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> ListPins(const std::string& dir) {
  std::vector<std::string> names;
  std::unique_ptr<DIR, int (*)(DIR*)> stream(opendir(dir.c_str()), closedir);
  if (stream == nullptr) {
    if (errno == ENOENT) return names;
    return ErrnoStatus(errno, StrCat("opendir ", dir));
  }
  while (const dirent* entry = readdir(stream.get())) {
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

absl::StatusOr<bool> RemovePinDir(const std::string& dir) {
  TPX_ASSIGN_OR_RETURN(std::vector<std::string> pins, ListPins(dir));
  for (const std::string& pin : pins) {
    TPX_RETURN_IF_ERROR(sys::Remove(StrCat(dir, "/", pin)).status());
  }
  return sys::Remove(dir);
}

}  // namespace tpx::bpf
