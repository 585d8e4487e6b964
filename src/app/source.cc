// SPDX-License-Identifier: Apache-2.0
#include "tpx/app/source.h"

#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tpx/app/config_file.h"
#include "tpx/base/status.h"

namespace tpx::app {
namespace {

absl::StatusOr<Source> FromParsed(policy::ParseResult parsed, std::string text, std::string origin) {
  TPX_RETURN_IF_ERROR(ConfigErrors(parsed));
  Source source{.config = std::move(parsed.config),
                .text = std::move(text),
                .origin = std::move(origin),
                .warnings = {}};
  for (const policy::Diagnostic& warning : parsed.warnings) source.warnings.push_back(warning.ToString());
  return source;
}

absl::StatusOr<Source> FromFile(const std::string& path) {
  TPX_ASSIGN_OR_RETURN(ConfigFile file, ReadConfigFile(path));
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

}  // namespace tpx::app
