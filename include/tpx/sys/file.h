// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tpx/base/unique_fd.h"

namespace tpx::sys {

// At most max_bytes; a longer file is kResourceExhausted.
absl::StatusOr<std::string> ReadFile(const std::string& path, size_t max_bytes = 64 << 20);

// Readers see the old content or the new one, also after a power cut.
absl::Status WriteFileAtomic(const std::string& path, std::string_view content, mode_t mode = 0600);

// mkdir -p; `mode` is for the directories that are made.
absl::Status MakeDirectories(const std::string& path, mode_t mode);

// Removes a file or an empty directory; what is not there is fine. True when
// something was removed.
absl::StatusOr<bool> Remove(const std::string& path);

// Appends whole lines that are on disk when Append returns.
class SyncedAppender {
 public:
  static absl::StatusOr<SyncedAppender> Open(const std::string& path);
  absl::Status Append(std::string_view line);  // without its newline

 private:
  explicit SyncedAppender(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

}  // namespace tpx::sys
