// SPDX-License-Identifier: Apache-2.0
#include "tpx/app/view.h"

#include "tpx/base/status.h"
#include "tpx/control/watchers.h"

namespace tpx::app {
namespace {

const char* Name(tpx_fail_mode mode) {
  constexpr const char* kNames[] = {"open", "closed", "reset"};
  return kNames[mode];
}

const char* Name(tpx_source_mode source) {
  constexpr const char* kNames[] = {"masquerade", "preserve"};
  return kNames[source];
}

const char* Name(tpx_mapping mapping) {
  constexpr const char* kNames[] = {"endpoint-independent", "address-and-port-dependent"};
  return kNames[mapping];
}

RuleView ViewOf(const policy::Rule& rule) {
  RuleView view{.name = rule.name, .action = ActionName(rule.action)};
  constexpr const char* kForwards[] = {"", "fib", "auto"};
  view.forward = kForwards[rule.forward];
  if (!rule.is_proxied()) return view;
  view.fail_mode = Name(rule.fail_mode);
  view.source = Name(rule.source);
  if (rule.action == TPX_ACTION_REDIRECT) {
    view.target = rule.target.ToString();
  } else if (rule.mapping != TPX_MAPPING_ENDPOINT_INDEPENDENT) {
    view.mapping = Name(rule.mapping);
  }
  return view;
}

}  // namespace

const char* ActionName(tpx_action action) {
  constexpr const char* kNames[] = {"bypass", "proxy", "drop", "reject", "redirect"};
  return kNames[action];
}

absl::StatusOr<GatewayView> ReadGateway(const control::Paths& paths) {
  GatewayView view;
  TPX_ASSIGN_OR_RETURN(view.state, control::Snapshot(paths));
  if (!view.state.loaded || view.foreign()) return view;
  TPX_ASSIGN_OR_RETURN(control::StoredConfig stored, control::LoadedConfig(paths));
  std::vector<std::optional<uint32_t>> counters;
  for (const policy::Rule& rule : stored.config.policy.rules) {
    view.rules.push_back(ViewOf(rule));
    const auto counter = view.state.rule_counters.find(rule.name);
    // A rule without one was published after the state was read.
    counters.push_back(counter == view.state.rule_counters.end() ? std::nullopt
                                                                 : std::optional(counter->second));
  }
  TPX_ASSIGN_OR_RETURN(view.counts, observe::TakeSnapshot(paths.pins, counters));
  view.watchers = control::WatcherNames(view.counts.watchers);
  return view;
}

}  // namespace tpx::app
