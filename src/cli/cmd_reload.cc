// SPDX-License-Identifier: Apache-2.0
#include <ostream>

#include "absl/strings/str_cat.h"
#include "command.h"
#include "report.h"
#include "tpx/app/existing.h"
#include "tpx/app/gateway.h"
#include "tpx/base/status.h"

namespace tpx::cli {
namespace {

size_t PrefixesOf(const std::string& name, const std::vector<policy::SetFile>& sets) {
  for (const policy::SetFile& set : sets)
    if (set.name == name) return set.prefixes;
  return 0;
}

void AddSizes(const policy::Config& now, const policy::Config& before, std::vector<std::string>& lines) {
  for (const policy::SetFile& set : now.set_files) {
    lines.push_back(absl::StrCat("set ", set.name, ": ", Grouped(set.prefixes), " prefixes (was ",
                                 Grouped(PrefixesOf(set.name, before.set_files)), ")"));
  }
}

absl::StatusOr<control::ReloadReport> ReloadSets(const control::Paths& paths, Env& env) {
  std::vector<std::string> lines;
  auto reread = [&](const control::StoredConfig& loaded) -> absl::StatusOr<policy::Config> {
    TPX_ASSIGN_OR_RETURN(app::RereadSets sets, app::RereadSetsOf(loaded));
    Warn(env, sets.warnings);
    AddSizes(sets.config, loaded.config, lines);
    return std::move(sets.config);
  };
  TPX_ASSIGN_OR_RETURN(control::ReloadReport report, control::ReloadChanged(paths, reread));
  report.lines.insert(report.lines.begin(), lines.begin(), lines.end());
  return report;
}

absl::StatusOr<control::ReloadReport> ReloadAll(const control::Paths& paths, const Options& options,
                                                Env& env) {
  TPX_ASSIGN_OR_RETURN(app::Source source,
                       app::FindSource({options.config, options.lan, options.wan}, paths, false));
  Warn(env, source.warnings);
  return control::Reload(paths, source.config, source.text);
}

app::Existing ExistingOf(const Options& options) {
  if (options.existing == "drain") return app::Existing::kDrain;
  return options.existing == "abort" ? app::Existing::kAbort : app::Existing::kKeep;
}

}  // namespace

int RunReload(const Options& options, Env& env) {
  const control::Paths paths = app::InstancePaths(options.instance);
  auto reload = [&] { return options.sets ? ReloadSets(paths, env) : ReloadAll(paths, options, env); };
  // Shown as they come: draining takes its time.
  auto tell = [&](const std::string& line) { env.out << line << std::endl; };
  const absl::Status status = app::ReloadWith(paths, ExistingOf(options), reload, tell);
  return status.ok() ? kDone : Fail(env, status);
}

}  // namespace tpx::cli
