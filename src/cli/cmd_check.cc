// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>

#include "command.h"
#include "tpx/app/config_file.h"
#include "tpx/policy/compile.h"

namespace tpx::cli {
namespace {

using Json = nlohmann::ordered_json;

Json ToJson(const std::vector<policy::Diagnostic>& diagnostics) {
  Json list = Json::array();
  for (const policy::Diagnostic& d : diagnostics)
    list.push_back({{"file", d.file}, {"line", d.line}, {"column", d.column}, {"message", d.message}});
  return list;
}

// A policy can be well-formed and yet exceed the kernel tables' limits.
void CheckCompiles(const std::string& file, policy::ParseResult& parsed) {
  if (!parsed.ok()) return;
  auto compiled = policy::Compile(parsed.config.policy);
  if (!compiled.ok()) parsed.errors.push_back({file, 1, 1, std::string(compiled.status().message())});
}

}  // namespace

int RunCheck(const Options& options, Env& env) {
  auto file = app::ReadConfigFile(options.file);
  if (!file.ok()) {
    env.err << "tpx-bpf: " << file.status().message() << '\n';
    return kFailed;
  }
  policy::ParseResult& parsed = file->parsed;
  CheckCompiles(options.file, parsed);
  if (options.json) {
    Json answer = {{"file", options.file},
                   {"ok", parsed.ok()},
                   {"errors", ToJson(parsed.errors)},
                   {"warnings", ToJson(parsed.warnings)}};
    // File names and quoted text may hold bytes that are not UTF-8.
    env.out << answer.dump(2, ' ', false, Json::error_handler_t::replace) << '\n';
    return parsed.ok() ? kDone : kFailed;
  }
  for (const auto& error : parsed.errors) env.err << error.ToString() << '\n';
  for (const auto& warning : parsed.warnings) env.err << "warning: " << warning.ToString() << '\n';
  if (!parsed.ok()) return kFailed;
  env.out << options.file << ": good, " << parsed.config.policy.rules.size()
          << " rules, the default included\n";
  return kDone;
}

}  // namespace tpx::cli
