// SPDX-License-Identifier: Apache-2.0
#include "command.h"
#include "report.h"
#include "tpx/app/gateway.h"

namespace tpx::cli {

int RunUpgrade(const Options& options, Env& env) {
  auto report = control::Upgrade(app::InstancePaths(options.instance));
  if (!report.ok()) return Fail(env, report.status());
  return Answer(env, report->lines);
}

}  // namespace tpx::cli
