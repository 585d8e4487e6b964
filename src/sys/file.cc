// SPDX-License-Identifier: Apache-2.0
#include "tpx/sys/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "tpx/base/status.h"
#include "tpx/base/strings.h"

namespace tpx::sys {
namespace {

absl::Status WriteAll(int fd, std::string_view bytes, const std::string& path) {
  while (!bytes.empty()) {
    ssize_t n = write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(errno, StrCat("write ", path));
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

std::string Parent(const std::string& path) {
  size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

absl::Status SyncDirectory(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd) return ErrnoStatus(errno, StrCat("open ", path));
  if (fsync(fd.get()) != 0) return ErrnoStatus(errno, StrCat("fsync ", path));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> ReadFile(const std::string& path, size_t max_bytes) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return ErrnoStatus(errno, StrCat("open ", path));
  std::string content;
  char buffer[16384];
  while (true) {
    ssize_t n = read(fd.get(), buffer, sizeof(buffer));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(errno, StrCat("read ", path));
    if (n == 0) return content;
    if (content.size() + static_cast<size_t>(n) > max_bytes) {
      return absl::ResourceExhaustedError(StrCat(path, " is longer than ", max_bytes, " bytes"));
    }
    content.append(buffer, static_cast<size_t>(n));
  }
}

absl::Status WriteFileAtomic(const std::string& path, std::string_view content, mode_t mode) {
  const std::string temporary = StrCat(path, ".tmp");
  UniqueFd fd(open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, mode));
  if (!fd) return ErrnoStatus(errno, StrCat("open ", temporary));
  TPX_RETURN_IF_ERROR(WriteAll(fd.get(), content, temporary));
  if (fsync(fd.get()) != 0) return ErrnoStatus(errno, StrCat("fsync ", temporary));
  if (rename(temporary.c_str(), path.c_str()) != 0) return ErrnoStatus(errno, StrCat("rename to ", path));
  return SyncDirectory(Parent(path));
}

absl::Status MakeDirectories(const std::string& path, mode_t mode) {
  if (mkdir(path.c_str(), mode) == 0) return absl::OkStatus();
  if (errno == ENOENT && Parent(path) != path) {
    TPX_RETURN_IF_ERROR(MakeDirectories(Parent(path), mode));
    if (mkdir(path.c_str(), mode) == 0) return absl::OkStatus();
  }
  const int error = errno;
  struct stat st {};
  if (error == EEXIST && stat(path.c_str(), &st) == 0 && S_ISDIR(st.st_mode)) return absl::OkStatus();
  return ErrnoStatus(error, StrCat("mkdir ", path));
}

absl::StatusOr<bool> Remove(const std::string& path) {
  if (remove(path.c_str()) == 0) return true;
  if (errno == ENOENT || errno == ENOTDIR) return false;
  return ErrnoStatus(errno, StrCat("remove ", path));
}

absl::StatusOr<SyncedAppender> SyncedAppender::Open(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) return ErrnoStatus(errno, StrCat("open ", path));
  TPX_RETURN_IF_ERROR(SyncDirectory(Parent(path)));
  return SyncedAppender(std::move(fd));
}

absl::Status SyncedAppender::Append(std::string_view line) {
  TPX_RETURN_IF_ERROR(WriteAll(fd_.get(), StrCat(line, "\n"), "journal"));
  if (fdatasync(fd_.get()) != 0) return ErrnoStatus(errno, "fdatasync of the journal");
  return absl::OkStatus();
}

}  // namespace tpx::sys
