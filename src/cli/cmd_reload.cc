// SPDX-License-Identifier: Apache-2.0
#include "command.h"
#include "report.h"
#include "tpx/app/gateway.h"

namespace tpx::cli {

int RunReload(const Options& options, Env& env) {
  control::Paths paths = app::InstancePaths(options.instance);
  auto source = app::FindSource({options.config, options.lan, options.wan}, paths, false);
  if (!source.ok()) return Fail(env, source.status());
  Warn(env, source->warnings);
  auto report = control::Reload(paths, source->config, source->text);
  if (!report.ok()) return Fail(env, report.status());
  return Answer(env, report->lines);
}

}  // namespace tpx::cli
