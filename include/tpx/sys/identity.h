// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

// What names on this machine stand for. kNotFound where there is no such thing.
namespace tpx::sys {

absl::StatusOr<uint32_t> UserId(const std::string& name);
absl::StatusOr<uint32_t> GroupId(const std::string& name);

// A file as the kernel knows it by itself, behind all links.
struct FileIdentity {
  uint64_t inode = 0;
  uint32_t device = 0;  // of its file system: major << 20 | minor
};
// kInvalidArgument where it is no regular file.
absl::StatusOr<FileIdentity> IdentifyFile(const std::string& path);

}  // namespace tpx::sys
