// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tpx/control/lifecycle.h"
#include "tpx_abi.h"

namespace tpx::control {

struct DeviceState {
  Device device;
  bool exists = false;
  bool attached = false;
  uint32_t program_id = 0;
};

struct EarlyDropState {
  EarlyDrop early;
  bool attached = false;
  uint32_t program_id = 0;
};

// A rule or route of ours, in words.
struct RouteState {
  std::string text;
  bool present = false;
};

struct StateSnapshot {
  bool loaded = false;
  std::vector<std::string> problems;  // what is not as it should be, in words
  uint32_t abi_version = 0;
  uint32_t generation = 0;
  std::string config_text;
  // The namespace it was loaded in; rules and devices are only looked at when
  // that is the current one.
  uint64_t netns = 0;
  bool netns_matches = true;
  bool sk_lookup_attached = false;
  uint32_t sk_lookup_program_id = 0;
  std::vector<DeviceState> devices;
  policy::Local local;  // as far as it could be had
  bool local_attached = false;
  std::vector<EarlyDropState> early;  // of LAN devices
  std::vector<RouteState> rules, routes;
  // Index into tpx_rule_hits by rule name; while a reload runs, of both its generations.
  std::map<std::string, uint32_t> rule_counters;
  std::optional<pid_t> runner;  // the process that serves, if one does
};

// Nothing loaded is no error. Takes no lock: during a load or reload the
// answer may be of a moment in between.
absl::StatusOr<StateSnapshot> Snapshot(const Paths& paths);

// By generation the index into tpx_rule_hits by rule name: of the live one, while a reload runs
// of the other one too. Cheaper than a Snapshot, because one small file is read.
using GenerationCounters = std::map<uint32_t, std::map<std::string, uint32_t>>;
absl::StatusOr<GenerationCounters> ReadRuleCounters(const Paths& paths);

}  // namespace tpx::control
