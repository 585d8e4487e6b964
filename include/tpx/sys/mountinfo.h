// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace tpx::sys {

// What is mounted somewhere, in the mount namespace of this process.
struct MountPoint {
  uint64_t id = 0;
  uint32_t device = 0;  // of the file system, as the kernel has it: major << 20 | minor
  std::string root;     // what of the file system is mounted; "/" for all of it
  std::string path;     // where
  std::string type;     // "ext4", "cgroup2"...
};

absl::StatusOr<std::vector<MountPoint>> ListMounts();

// The lines of /proc/PID/mountinfo; what is no such line is left out.
std::vector<MountPoint> ParseMounts(std::string_view mountinfo);

}  // namespace tpx::sys
