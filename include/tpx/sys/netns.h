// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"

namespace tpx::sys {

// Identity of the calling thread's network namespace: the inode that
// `readlink /proc/self/ns/net` shows. Numbers are used again after a namespace
// is gone.
absl::StatusOr<uint64_t> CurrentNetns();

// The kernel's own number of it (SO_NETNS_COOKIE, Linux 5.14), which is never used again.
absl::StatusOr<uint64_t> NetnsCookie();

// A path by which the namespace can be entered (named, or of a process), if
// there is one.
std::optional<std::string> FindNetns(uint64_t inode);

}  // namespace tpx::sys
