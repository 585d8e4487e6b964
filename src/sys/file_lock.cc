// SPDX-License-Identifier: Apache-2.0
#include "tpx/sys/file_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <thread>

#include "absl/strings/numbers.h"
#include "tpx/base/status.h"
#include "tpx/base/strings.h"
#include "tpx/sys/file.h"

namespace tpx::sys {
namespace {

constexpr std::chrono::milliseconds kRetry{20};

// False when the file was deleted or replaced since it was opened.
bool StillAt(const std::string& path, int fd) {
  struct stat opened {
  }, named{};
  return fstat(fd, &opened) == 0 && stat(path.c_str(), &named) == 0 && opened.st_ino == named.st_ino &&
         opened.st_dev == named.st_dev;
}

absl::StatusOr<UniqueFd> OpenLockFile(const std::string& path) {
  constexpr int kFlags = O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW;
  UniqueFd fd(open(path.c_str(), kFlags, 0600));
  if (!fd && errno == ENOENT) {
    TPX_RETURN_IF_ERROR(MakeDirectories(path.substr(0, path.rfind('/')), 0700));
    fd.Reset(open(path.c_str(), kFlags, 0600));
  }
  if (!fd && errno != ENOENT) return ErrnoStatus(errno, StrCat("open ", path));
  return fd;  // empty: the directory vanished again, try once more
}

absl::Status WritePid(int fd, const std::string& path) {
  const std::string text = StrCat(getpid(), "\n");
  if (ftruncate(fd, 0) != 0) return ErrnoStatus(errno, StrCat("ftruncate ", path));
  if (pwrite(fd, text.data(), text.size(), 0) != static_cast<ssize_t>(text.size())) {
    return ErrnoStatus(errno, StrCat("write ", path));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<FileLock> FileLock::Acquire(const std::string& path, std::chrono::milliseconds timeout) {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  while (true) {
    TPX_ASSIGN_OR_RETURN(UniqueFd fd, OpenLockFile(path));
    if (fd && flock(fd.get(), LOCK_EX | LOCK_NB) == 0) {
      if (StillAt(path, fd.get())) {
        TPX_RETURN_IF_ERROR(WritePid(fd.get(), path));
        return FileLock(std::move(fd));
      }
      continue;
    }
    if (fd && errno != EWOULDBLOCK && errno != EINTR) return ErrnoStatus(errno, StrCat("flock ", path));
    if (std::chrono::steady_clock::now() >= deadline) {
      pid_t holder = Holder(path).value_or(0);
      return absl::UnavailableError(holder > 0 ? StrCat(path, " is locked by process ", holder)
                                               : StrCat(path, " is locked by another process"));
    }
    // flock has no bounded wait; the lock is held for milliseconds as a rule.
    std::this_thread::sleep_for(kRetry);
  }
}

std::optional<pid_t> FileLock::Holder(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!fd || flock(fd.get(), LOCK_SH | LOCK_NB) == 0 || errno != EWOULDBLOCK) return std::nullopt;
  char text[24] = {};
  pid_t pid = 0;
  ssize_t n = pread(fd.get(), text, sizeof(text) - 1, 0);
  if (n <= 0 || !absl::SimpleAtoi(absl::string_view(text, static_cast<size_t>(n)), &pid)) return 0;
  return pid;
}

}  // namespace tpx::sys
