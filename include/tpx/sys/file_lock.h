// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <chrono>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "tpx/base/unique_fd.h"

namespace tpx::sys {

// An exclusive flock(2) on a file that holds the owner's process id as text.
// The lock goes with its owner, however that ends; the file may stay. It is
// safe to delete the file while holding the lock: a waiter notices.
class FileLock {
 public:
  // Creates the file (0600) and its directory (0700) where needed, waits up to
  // `timeout`. kUnavailable names the process that holds the lock.
  static absl::StatusOr<FileLock> Acquire(const std::string& path, std::chrono::milliseconds timeout);

  // The process that holds the lock now, if any does; 0 when it can't be told.
  static std::optional<pid_t> Holder(const std::string& path);

 private:
  explicit FileLock(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

}  // namespace tpx::sys
