// SPDX-License-Identifier: Apache-2.0
#include "tpx/app/config_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string_view>
#include <tuple>
#include <vector>

#include "absl/strings/str_cat.h"
#include "owner_lookup.h"
#include "progress_line.h"
#include "tpx/base/status.h"
#include "tpx/base/unique_fd.h"

namespace tpx::app {
namespace {

// O_NONBLOCK: opening a FIFO must not wait for a writer.
absl::StatusOr<std::string> ReadRegularFile(const std::string& path, size_t limit) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) return ErrnoStatus(errno, path);
  struct stat st;
  if (fstat(fd.get(), &st) != 0) return ErrnoStatus(errno, path);
  if (!S_ISREG(st.st_mode)) return absl::InvalidArgumentError(absl::StrCat(path, ": not a regular file"));
  if (st.st_mode & S_IWOTH)
    return absl::PermissionDeniedError(
        absl::StrCat(path, ": everybody may write to it; take that away with chmod o-w"));
  std::string text;
  char buffer[65536];
  for (;;) {
    ssize_t n = read(fd.get(), buffer, sizeof(buffer));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(errno, path);
    if (n == 0) return text;
    if (text.size() + n > limit)
      return absl::ResourceExhaustedError(absl::StrCat(path, ": larger than ", limit >> 20, " MiB"));
    text.append(buffer, n);
  }
}

// As one reads them: those of the file itself first, then its sets'.
void SortByPlace(std::vector<policy::Diagnostic>& diagnostics, const std::string& path) {
  auto place = [&path](const policy::Diagnostic& d) {
    return std::tuple(d.file != path, std::string_view(d.file), d.line, d.column);
  };
  std::stable_sort(diagnostics.begin(), diagnostics.end(),
                   [&](const auto& a, const auto& b) { return place(a) < place(b); });
}

std::string FolderOf(const std::string& path) {
  size_t slash = path.rfind('/');
  return slash == std::string::npos ? "" : path.substr(0, slash + 1);
}

}  // namespace

absl::StatusOr<ConfigFile> ReadConfigFile(const std::string& path) {
  ConfigFile file;
  TPX_ASSIGN_OR_RETURN(file.text, ReadRegularFile(path, policy::kMaxConfigBytes));
  file.parsed = ParseWithSets(file.text, path);
  return file;
}

policy::ParseResult ParseWithSets(std::string_view text, const std::string& path) {
  std::string folder = FolderOf(path);
  auto read_set = [&folder](const std::string& name) {
    return ReadRegularFile(name.starts_with('/') ? name : folder + name, policy::kMaxSetFileBytes);
  };
  ProgressLine progress(STDERR_FILENO);
  auto show = [&progress](const std::string& name, size_t done, size_t total) {
    progress.Show(absl::StrCat("reading ", name, ": ", done * 100 / total, " %"));
  };
  policy::ParseResult parsed = policy::ParseConfig(text, path, read_set, show, SystemOwners());
  SortByPlace(parsed.errors, path);
  SortByPlace(parsed.warnings, path);
  return parsed;
}

absl::Status ConfigErrors(const policy::ParseResult& parsed) {
  if (parsed.ok()) return absl::OkStatus();
  std::string text;
  for (const policy::Diagnostic& error : parsed.errors)
    absl::StrAppend(&text, text.empty() ? "" : "\n", error.ToString());
  return absl::InvalidArgumentError(text);
}

}  // namespace tpx::app
