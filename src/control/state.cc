// SPDX-License-Identifier: Apache-2.0
#include "state.h"

#include <nlohmann/json.hpp>

#include "config_json.h"
#include "instance.h"
#include "tpx/base/status.h"
#include "tpx/base/strings.h"
#include "tpx/sys/file.h"

namespace tpx::control {
namespace {

using nlohmann::json;

json DeviceToJson(const Device& device) {
  return {{"name", device.name},
          {"ifindex", device.ifindex},
          {"role", RoleName(device.role)},
          {"mode", ModeName(device.mode)},
          {"priority", device.priority}};
}

Mode ModeFromJson(const json& j) { return j == ModeName(Mode::kTcx) ? Mode::kTcx : Mode::kClsact; }

Device DeviceFromJson(const json& j) {
  return {.name = j.at("name"),
          .ifindex = j.at("ifindex"),
          .role = j.at("role") == RoleName(Role::kLan) ? Role::kLan : Role::kWan,
          .mode = ModeFromJson(j.at("mode")),
          .priority = j.at("priority")};
}

json EarlyToJson(const EarlyDrop& early) {
  return {{"device", early.device},        {"ifindex", early.ifindex},
          {"place", early.place},          {"why", early.why},
          {"asked", early.asked},          {"failed", early.failed},
          {"dispatched", early.dispatched}};
}

EarlyDrop EarlyFromJson(const json& j) {
  return {.device = j.at("device"),
          .ifindex = j.at("ifindex"),
          .place = j.at("place").get<XdpPlace>(),
          .why = j.at("why"),
          .asked = j.at("asked").get<policy::XdpMode>(),
          .failed = j.at("failed"),
          .dispatched = j.value("dispatched", false)};
}

json ToJson(const State& state) {
  json devices = json::array();
  for (const Device& device : state.devices) devices.push_back(DeviceToJson(device));
  json early = json::array();
  for (const EarlyDrop& device : state.early) early.push_back(EarlyToJson(device));
  json counters = json::object();
  for (const auto& [generation, rules] : state.rule_counters) counters[std::to_string(generation)] = rules;
  return {{"abi_version", state.abi_version},
          {"netns", state.netns},
          {"families", state.families},
          {"mode", ModeName(state.mode)},
          {"steering", SteeringToJson(state.steering)},
          {"interfaces", InterfacesToJson(state.interfaces)},
          {"local", {{"enabled", state.local.enabled}, {"cgroup", state.local.cgroup}}},
          {"devices", devices},
          {"xdp", {{"asked", state.xdp}, {"idle", state.xdp_idle}, {"devices", early}}},
          {"build", state.build},
          {"rule_counters", counters}};
}

State FromJson(const json& j) {
  State state{.abi_version = j.at("abi_version"),
              .netns = j.at("netns"),
              .families = j.at("families").get<std::vector<sys::Family>>(),
              .mode = ModeFromJson(j.at("mode")),
              .steering = SteeringFromJson(j.at("steering")),
              .interfaces = InterfacesFromJson(j.at("interfaces")),
              .local = {.enabled = j.at("local").at("enabled"), .cgroup = j.at("local").at("cgroup")},
              .devices = {},
              .xdp = j.at("xdp").at("asked").get<policy::XdpMode>(),
              .xdp_idle = j.at("xdp").at("idle"),
              .early = {},
              .build = j.value("build", ""),
              .rule_counters = {}};
  for (const json& device : j.at("devices")) state.devices.push_back(DeviceFromJson(device));
  for (const json& device : j.at("xdp").at("devices")) state.early.push_back(EarlyFromJson(device));
  const json counters = j.value("rule_counters", json::object());  // versions before the second had none
  for (const auto& [generation, rules] : counters.items()) {
    state.rule_counters[static_cast<uint32_t>(std::stoul(generation))] = rules.get<RuleCounters>();
  }
  return state;
}

}  // namespace

absl::StatusOr<State> ReadState(const Paths& paths) {
  TPX_ASSIGN_OR_RETURN(std::string text, sys::ReadFile(StatePath(paths)));
  try {
    return FromJson(json::parse(text));
  } catch (const std::exception& e) {  // the library's only way to tell
    return absl::DataLossError(StrCat(StatePath(paths), ": ", e.what()));
  }
}

absl::Status WriteState(const Paths& paths, const State& state) {
  return sys::WriteFileAtomic(StatePath(paths),
                              ToJson(state).dump(2, ' ', false, json::error_handler_t::replace));
}

std::vector<sys::PolicyRule> RulesOf(const State& state, const Device& device) {
  std::vector<sys::PolicyRule> rules;
  for (sys::Family family : state.families) {
    rules.push_back({.family = family,
                     .iif = device.name,
                     .mark = state.steering.steer_mark,
                     .mask = state.steering.mark_mask,
                     .table = state.steering.route_table,
                     .priority = state.steering.rule_priority});
  }
  return rules;
}

std::vector<sys::PolicyRule> LocalRulesOf(const State& state) {
  std::vector<sys::PolicyRule> rules;
  if (!state.local.enabled) return rules;
  const policy::Steering& steering = state.steering;
  for (sys::Family family : state.families) {
    const sys::PolicyRule rule{
        .family = family, .iif = "lo", .table = steering.route_table, .priority = steering.rule_priority};
    sys::PolicyRule by_mark = rule, by_source = rule;
    by_mark.mark = steering.local_mark();
    by_mark.mask = steering.mark_mask;
    by_source.from_loopback = true;
    rules.push_back(by_mark);
    rules.push_back(by_source);
  }
  return rules;
}

std::vector<sys::PolicyRule> AllRulesOf(const State& state) {
  std::vector<sys::PolicyRule> rules = LocalRulesOf(state);
  for (const Device& device : state.devices) {
    const std::vector<sys::PolicyRule> more = RulesOf(state, device);
    rules.insert(rules.end(), more.begin(), more.end());
  }
  return rules;
}

std::vector<sys::LocalRoute> RoutesOf(const State& state) {
  std::vector<sys::LocalRoute> routes;
  for (sys::Family family : state.families) {
    routes.push_back({.family = family, .table = state.steering.route_table});
  }
  return routes;
}

}  // namespace tpx::control
