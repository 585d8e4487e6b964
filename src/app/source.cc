// SPDX-License-Identifier: Apache-2.0
#include "tpx/app/source.h"

#include <unistd.h>

#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tpx/app/config_file.h"
#include "tpx/base/status.h"

namespace tpx::app {
namespace {

std::vector<std::string> WarningsOf(const policy::ParseResult& parsed) {
  std::vector<std::string> warnings;
  for (const policy::Diagnostic& warning : parsed.warnings) warnings.push_back(warning.ToString());
  return warnings;
}

absl::StatusOr<Source> FromParsed(policy::ParseResult parsed, std::string text, std::string origin) {
  TPX_RETURN_IF_ERROR(ConfigErrors(parsed));
  return Source{.config = std::move(parsed.config),
                .text = std::move(text),
                .origin = std::move(origin),
                .warnings = WarningsOf(parsed)};
}

// Symbolic links stay: sets are beside the link.
absl::StatusOr<std::string> AbsolutePath(const std::string& path) {
  std::error_code error;
  std::string absolute = std::filesystem::absolute(path, error).string();
  if (error) return ErrnoStatus(error.value(), path);
  return absolute;
}

absl::StatusOr<Source> FromFile(const std::string& path) {
  TPX_ASSIGN_OR_RETURN(ConfigFile file, ReadConfigFile(path));
  TPX_ASSIGN_OR_RETURN(file.parsed.config.file, AbsolutePath(path));
  return FromParsed(std::move(file.parsed), std::move(file.text), path);
}

absl::StatusOr<Source> FromText(std::string text, const std::string& origin) {
  auto no_files = [](const std::string& path) -> absl::StatusOr<std::string> {
    return absl::NotFoundError(absl::StrCat(path, ": sets in files need --config"));
  };
  policy::ParseResult parsed = policy::ParseConfig(text, origin, no_files);
  return FromParsed(std::move(parsed), std::move(text), origin);
}

std::string QuotedList(const std::vector<std::string>& names) {
  auto quote = [](std::string* out, const std::string& name) { absl::StrAppend(out, "'", name, "'"); };
  return absl::StrCat("[", absl::StrJoin(names, ", ", quote), "]");
}

absl::StatusOr<Source> FromDevices(const SourceRequest& request) {
  std::string text = absl::StrCat("version: 1\ninterfaces:\n  lan: ", QuotedList(request.lan), "\n");
  if (!request.wan.empty()) absl::StrAppend(&text, "  wan: ", QuotedList(request.wan), "\n");
  absl::StrAppend(&text, "default: proxy\n");
  return FromText(std::move(text), "--lan");
}

}  // namespace

absl::StatusOr<Source> FindSource(const SourceRequest& request, const control::Paths& paths,
                                  bool prefer_loaded) {
  if (!request.config.empty()) return FromFile(request.config);
  if (!request.lan.empty()) return FromDevices(request);
  if (prefer_loaded) {
    auto loaded = control::LoadedConfig(paths);
    if (loaded.ok())
      return Source{.config = std::move(loaded->config),
                    .text = std::move(loaded->text),
                    .origin = "the loaded state",
                    .warnings = {}};
  }
  if (access(kDefaultConfigPath, F_OK) == 0) return FromFile(kDefaultConfigPath);
  return absl::InvalidArgumentError(
      absl::StrCat("no configuration: give --config FILE or --lan DEV, or write ", kDefaultConfigPath));
}

absl::StatusOr<RereadSets> RereadSetsOf(const control::StoredConfig& loaded) {
  const std::string& file = loaded.config.file;
  if (file.empty())
    return absl::FailedPreconditionError("there are no sets: what is loaded does not come from a file");
  if (loaded.config.set_files.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("there are no sets in files: the loaded configuration, of ", file, ", names none"));
  }
  policy::ParseResult parsed = ParseWithSets(loaded.text, file);
  TPX_RETURN_IF_ERROR(ConfigErrors(parsed));
  RereadSets reread{.config = std::move(parsed.config), .warnings = WarningsOf(parsed)};
  reread.config.file = file;
  return reread;
}

}  // namespace tpx::app
