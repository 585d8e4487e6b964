// SPDX-License-Identifier: Apache-2.0
#include "tpx/sys/mountinfo.h"

#include <algorithm>
#include <optional>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "tpx/base/status.h"
#include "tpx/base/strings.h"
#include "tpx/sys/file.h"

namespace tpx::sys {
namespace {

constexpr unsigned kMinorBits = 20;

bool IsOctal(char c) { return c >= '0' && c <= '7'; }

// Blanks, newlines and backslashes are written as \040.
std::string Unescaped(absl::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool escape = text[i] == '\\' && i + 3 < text.size() && IsOctal(text[i + 1]) &&
                        IsOctal(text[i + 2]) && IsOctal(text[i + 3]);
    if (!escape) {
      out += text[i];
      continue;
    }
    out += static_cast<char>((text[i + 1] - '0') << 6 | (text[i + 2] - '0') << 3 | (text[i + 3] - '0'));
    i += 3;
  }
  return out;
}

// ID PARENT MAJOR:MINOR ROOT PATH OPTIONS [TAGS...] - TYPE SOURCE OPTIONS
std::optional<MountPoint> ParseMount(absl::string_view line) {
  const std::vector<absl::string_view> fields = absl::StrSplit(line, ' ');
  const auto dash = std::find(fields.begin(), fields.end(), "-");
  if (dash - fields.begin() < 6 || fields.end() - dash < 2) return std::nullopt;
  MountPoint mount;
  const std::vector<absl::string_view> device = absl::StrSplit(fields[2], ':');
  uint32_t major = 0, minor = 0;
  if (!absl::SimpleAtoi(fields[0], &mount.id) || device.size() != 2 || !absl::SimpleAtoi(device[0], &major) ||
      !absl::SimpleAtoi(device[1], &minor)) {
    return std::nullopt;
  }
  mount.device = major << kMinorBits | minor;
  mount.root = Unescaped(fields[3]);
  mount.path = Unescaped(fields[4]);
  mount.type = Unescaped(*(dash + 1));
  return mount;
}

}  // namespace

std::vector<MountPoint> ParseMounts(std::string_view mountinfo) {
  std::vector<MountPoint> mounts;
  for (absl::string_view line : absl::StrSplit(ToAbsl(mountinfo), '\n')) {
    if (std::optional<MountPoint> mount = ParseMount(line)) mounts.push_back(*std::move(mount));
  }
  return mounts;
}

absl::StatusOr<std::vector<MountPoint>> ListMounts() {
  TPX_ASSIGN_OR_RETURN(const std::string text, ReadFile("/proc/self/mountinfo"));
  return ParseMounts(text);
}

}  // namespace tpx::sys
