// SPDX-License-Identifier: Apache-2.0
#include "tpx/control/snapshot.h"

#include <net/if.h>

#include <algorithm>

#include "attach.h"
#include "instance.h"
#include "local_output.h"
#include "state.h"
#include "tpx/base/status.h"
#include "tpx/base/strings.h"
#include "tpx/bpf/link.h"
#include "tpx/bpf/maps.h"
#include "tpx/bpf/pin_dir.h"
#include "tpx/sys/file.h"
#include "tpx/sys/file_lock.h"
#include "tpx/sys/netns.h"
#include "xdp.h"

namespace tpx::control {
namespace {

template <typename T>
RouteState StateOf(const T& wanted, const std::vector<T>& present) {
  return {.text = wanted.ToString(),
          .present = std::find(present.begin(), present.end(), wanted) != present.end()};
}

absl::Status AddRouting(const State& state, StateSnapshot& snapshot) {
  TPX_ASSIGN_OR_RETURN(sys::Rtnl rtnl, sys::Rtnl::Open());
  TPX_ASSIGN_OR_RETURN(const auto rules, rtnl.ListRules());
  TPX_ASSIGN_OR_RETURN(const auto routes, rtnl.ListRoutes(state.steering.route_table));
  for (const sys::PolicyRule& rule : AllRulesOf(state)) snapshot.rules.push_back(StateOf(rule, rules));
  for (const sys::LocalRoute& route : RoutesOf(state)) snapshot.routes.push_back(StateOf(route, routes));
  for (const auto* list : {&snapshot.rules, &snapshot.routes}) {
    for (const RouteState& route : *list) {
      if (!route.present)
        snapshot.problems.push_back(StrCat("missing: ", route.text, "; run 'tpx-bpf reload'"));
    }
  }
  return absl::OkStatus();
}

void AddDevices(const Paths& paths, const State& state, StateSnapshot& snapshot) {
  for (const Device& device : state.devices) {
    DeviceState found{.device = device,
                      .exists = if_nametoindex(device.name.c_str()) == static_cast<unsigned>(device.ifindex),
                      .attached = false,
                      .program_id = AttachedProgram(paths.pins, device)};
    found.attached = found.program_id != 0;
    char name[IF_NAMESIZE];
    if (!found.exists && found.attached && if_indextoname(device.ifindex, name) != nullptr) {
      snapshot.problems.push_back(StrCat(Describe(device), " is ", name, " now; run 'tpx-bpf reload'"));
    } else if (!found.exists) {
      snapshot.problems.push_back(StrCat(Describe(device), " is gone"));
    } else if (!found.attached) {
      snapshot.problems.push_back(StrCat(Describe(device), " is not attached; run 'tpx-bpf reload'"));
    }
    snapshot.devices.push_back(std::move(found));
  }
}

void AddEarlyDrop(const Paths& paths, const State& state, StateSnapshot& snapshot) {
  for (const EarlyDrop& early : state.early) {
    const uint32_t program = XdpProgram(paths.pins, early);
    snapshot.early.push_back({.early = early, .attached = program != 0, .program_id = program});
    char name[IF_NAMESIZE];
    const bool exists = if_indextoname(static_cast<unsigned>(early.ifindex), name) != nullptr;
    if (exists && early.place != XdpPlace::kNone && program == 0)
      snapshot.problems.push_back(StrCat("XDP is not attached to ", early.device, "; run 'tpx-bpf reload'"));
  }
}

void AddSkLookup(const Paths& paths, StateSnapshot& snapshot) {
  const absl::StatusOr<bpf::LinkState> link = bpf::InspectLink(SkLookupLinkPin(paths.pins));
  snapshot.sk_lookup_attached = link.ok() && link->target == snapshot.netns;
  if (link.ok()) snapshot.sk_lookup_program_id = link->program_id;
  if (!snapshot.sk_lookup_attached)
    snapshot.problems.emplace_back("the sk_lookup program is not attached; run 'tpx-bpf load'");
}

void AddLocal(const Paths& paths, const State& state, StateSnapshot& snapshot) {
  snapshot.local = state.local;
  snapshot.local_attached = state.local.enabled && LocalAttached(paths.pins, state.local);
  if (state.local.enabled && !snapshot.local_attached) {
    snapshot.problems.push_back(StrCat("not attached to ", Describe(state.local), "; run 'tpx-bpf reload'"));
  }
}

}  // namespace

absl::StatusOr<StateSnapshot> Snapshot(const Paths& paths) {
  StateSnapshot snapshot;
  snapshot.runner = sys::FileLock::Holder(RunLockPath(paths));
  if (!bpf::Exists(paths.pins)) {
    if (bpf::Exists(JournalPath(paths)) || bpf::Exists(bpf::StageDir(paths.pins))) {
      snapshot.problems.emplace_back(
          "an unfinished load or detach left something behind; run 'tpx-bpf detach'");
    }
    return snapshot;
  }
  snapshot.loaded = true;
  const absl::StatusOr<State> state = ReadState(paths);
  if (!state.ok()) {
    snapshot.problems.push_back(
        StrCat("the state is lost (", state.status().message(), "); run 'tpx-bpf load'"));
    return snapshot;
  }
  snapshot.netns = state->netns;
  snapshot.abi_version = state->abi_version;
  for (const auto& [generation, counters] : state->rule_counters)
    snapshot.rule_counters.insert(counters.begin(), counters.end());
  if (absl::StatusOr<std::string> text = sys::ReadFile(ConfigTextPath(paths)); text.ok()) {
    snapshot.config_text = *std::move(text);
  }
  if (state->abi_version != TPX_ABI_VERSION) {
    snapshot.problems.emplace_back("another version of the program loaded it; run 'tpx-bpf load'");
    return snapshot;
  }
  TPX_ASSIGN_OR_RETURN(auto control, bpf::OpenControl(paths.pins, bpf::Access::kReadOnly));
  snapshot.generation = control[0].generation;
  AddSkLookup(paths, snapshot);
  TPX_ASSIGN_OR_RETURN(const uint64_t netns, sys::CurrentNetns());
  snapshot.netns_matches = netns == state->netns;
  if (!snapshot.netns_matches) {
    snapshot.problems.push_back(StrCat("loaded in network namespace ", state->netns, ", this is ", netns));
    return snapshot;
  }
  AddDevices(paths, *state, snapshot);
  AddLocal(paths, *state, snapshot);
  AddEarlyDrop(paths, *state, snapshot);
  TPX_RETURN_IF_ERROR(AddRouting(*state, snapshot));
  return snapshot;
}

absl::StatusOr<GenerationCounters> ReadRuleCounters(const Paths& paths) {
  TPX_ASSIGN_OR_RETURN(const State state, ReadState(paths));
  return state.rule_counters;
}

}  // namespace tpx::control
