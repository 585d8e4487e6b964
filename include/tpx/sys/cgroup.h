// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace tpx::sys {

// Where the hierarchy of cgroup v2 is mounted: /sys/fs/cgroup, or beside those of
// version 1 (/sys/fs/cgroup/unified). kNotFound where it is mounted nowhere.
absl::StatusOr<std::string> Cgroup2Root();

// The folder of a cgroup by its path below the root, which begins with '/'. kNotFound
// where there is no such cgroup.
absl::StatusOr<std::string> CgroupFolder(std::string_view path);

// What the kernel calls it (bpf_get_current_cgroup_id): the inode of its folder.
absl::StatusOr<uint64_t> CgroupId(std::string_view path);

}  // namespace tpx::sys
