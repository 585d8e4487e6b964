// SPDX-License-Identifier: Apache-2.0
#include "tpx/sys/netns.h"

#include <dirent.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cerrno>
#include <memory>

#include "tpx/base/status.h"
#include "tpx/base/strings.h"
#include "tpx/base/unique_fd.h"

namespace tpx::sys {
namespace {

// The first entry of dir for which dir/<entry>suffix is that namespace.
std::optional<std::string> FindIn(const std::string& dir, const std::string& suffix, uint64_t inode) {
  std::unique_ptr<DIR, int (*)(DIR*)> stream(opendir(dir.c_str()), closedir);
  if (stream == nullptr) return std::nullopt;
  while (const dirent* entry = readdir(stream.get())) {
    if (entry->d_name[0] == '.') continue;
    std::string path = StrCat(dir, "/", entry->d_name, suffix);
    struct stat st {};
    if (stat(path.c_str(), &st) == 0 && st.st_ino == inode) return path;
  }
  return std::nullopt;
}

}  // namespace

absl::StatusOr<uint64_t> CurrentNetns() {
  struct stat st {};
  if (stat("/proc/thread-self/ns/net", &st) != 0) return ErrnoStatus(errno, "stat /proc/thread-self/ns/net");
  return st.st_ino;
}

absl::StatusOr<uint64_t> NetnsCookie() {
  const UniqueFd any(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!any) return ErrnoStatus(errno, "socket");
  uint64_t cookie = 0;
  socklen_t size = sizeof(cookie);
  if (getsockopt(any.get(), SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &size) != 0)
    return ErrnoStatus(errno, "getsockopt SO_NETNS_COOKIE");
  return cookie;
}

std::optional<std::string> FindNetns(uint64_t inode) {
  if (auto path = FindIn("/run/netns", "", inode)) return path;
  return FindIn("/proc", "/ns/net", inode);
}

}  // namespace tpx::sys
