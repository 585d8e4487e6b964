// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tpx/base/unique_fd.h"

namespace tpx::sys {

// kNotFound when the path does not exist.
absl::StatusOr<bool> IsBpffs(const std::string& path);

// Mounts a BPF file system that only root may enter. Refuses a directory that
// is not empty, because the mount would hide its files.
absl::Status MountBpffs(const std::string& path);

// Unmounts when nothing is pinned there. True when it did.
absl::StatusOr<bool> UnmountBpffsIfEmpty(const std::string& path);

// A BPF file system that is mounted nowhere and goes with its descriptor;
// PathOf leads into it.
absl::StatusOr<UniqueFd> OpenDetachedBpffs();
std::string PathOf(const UniqueFd& directory);

}  // namespace tpx::sys
