// SPDX-License-Identifier: Apache-2.0
#include "command.h"
#include "report.h"
#include "tpx/app/gateway.h"

namespace tpx::cli {

int RunRun(const Options& options, Env& env) {
  control::Paths paths = app::InstancePaths(options.instance);
  auto source = app::FindSource({options.config, options.lan, options.wan}, paths, true);
  if (!source.ok()) return Fail(env, source.status());
  Warn(env, source->warnings);
  absl::Status status = app::RunGateway(paths, *source);
  return status.ok() ? kDone : Fail(env, status);
}

}  // namespace tpx::cli
