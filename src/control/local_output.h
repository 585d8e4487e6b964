// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "attach.h"
#include "state.h"
#include "tpx/bpf/object.h"

// The programs for flows that begin on the gateway itself.
namespace tpx::control {

// What of the configuration can be had: a cgroup that is missing turns it off, with a note.
absl::StatusOr<policy::Local> PlanLocal(const policy::Config& config, std::vector<std::string>& notes);

// Makes what runs what the state says: adds the rules and attaches, or the
// reverse. What is as it should be is left alone. `changed` tells about the others.
absl::Status SyncLocal(Site& site, const State& state, std::vector<std::string>& changed);

// Replaces the programs in place by those that are pinned in `programs`.
absl::Status ReplaceLocal(Site& site, const std::string& programs);

// Whether all of it is attached to the cgroup that is there now.
bool LocalAttached(const std::string& pins, const policy::Local& local);

// Of the programs that the state calls for.
bpf::Knobs KnobsOf(const State& state);

std::string Describe(const policy::Local& local);  // "local flows of cgroup /"

}  // namespace tpx::control
