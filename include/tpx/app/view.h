// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tpx/control/lifecycle.h"
#include "tpx/control/snapshot.h"
#include "tpx/observe/snapshot.h"

namespace tpx::app {

const char* ActionName(tpx_action action);  // "proxy", …

struct RuleView {
  std::string name;
  const char* action = "";     // "proxy", …
  const char* fail_mode = "";  // "open", …; empty where nothing is proxied
  const char* source = "";     // "masquerade", …; same
  const char* mapping = "";    // of a rule that proxies UDP, where it is not the default
  const char* forward = "";    // "fib", "auto"; empty where the stack or the proxy forwards, or nobody
  std::string target{};        // "192.0.2.1:53"; empty where the action is not redirect
};

// What reading commands show: the loaded state and the counts of its maps.
struct GatewayView {
  control::StateSnapshot state;
  observe::Snapshot counts;     // meaningful only when loaded and not foreign
  std::vector<RuleView> rules;  // of the live generation
  // Who would miss what goes past the stack, in words, as the proxy has found them last.
  std::vector<std::string> watchers;
  // Another version of the program loaded it: its maps and files cannot be read.
  bool foreign() const { return state.abi_version != 0 && state.abi_version != TPX_ABI_VERSION; }
  // A process serves, hung or not: the workers' leases tell that.
  bool running() const { return state.runner.has_value(); }
  uint32_t proxy_pid() const { return static_cast<uint32_t>(state.runner.value_or(0)); }
};

// Works with and without a proxy running, hung or not: it only reads pins and files.
absl::StatusOr<GatewayView> ReadGateway(const control::Paths& paths);

}  // namespace tpx::app
