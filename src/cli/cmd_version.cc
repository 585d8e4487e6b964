// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>

#include "command.h"
#include "tpx_abi.h"

namespace tpx::cli {

int RunVersion(const Options& options, Env& env) {
  if (options.json) {
    nlohmann::ordered_json answer = {{"version", TPX_VERSION}, {"abi", TPX_ABI_VERSION}};
    env.out << answer.dump(2) << '\n';
  } else {
    env.out << "tpx-bpf " << TPX_VERSION << ", kernel contract " << TPX_ABI_VERSION << '\n';
  }
  return kDone;
}

}  // namespace tpx::cli
