// SPDX-License-Identifier: Apache-2.0
#include "config_json.h"

#include <stdexcept>
#include <vector>

#include "tpx/base/strings.h"

namespace tpx::control {
namespace {

using nlohmann::json;
using policy::Config;
using policy::PortRange;
using policy::Rule;

json PrefixesToJson(const std::vector<Prefix>& prefixes) {
  json list = json::array();
  for (const Prefix& prefix : prefixes) list.push_back(prefix.ToString());
  return list;
}

std::vector<Prefix> PrefixesFromJson(const json& list) {
  std::vector<Prefix> prefixes;
  for (const json& item : list) {
    absl::StatusOr<Prefix> prefix = Prefix::Parse(item.get_ref<const std::string&>());
    if (!prefix.ok()) throw std::invalid_argument(StrCat(prefix.status().message()));
    prefixes.push_back(*prefix);
  }
  return prefixes;
}

json PortsToJson(const std::vector<PortRange>& ranges) {
  json list = json::array();
  for (const PortRange& range : ranges) list.push_back({range.first, range.last});
  return list;
}

std::vector<PortRange> PortsFromJson(const json& list) {
  std::vector<PortRange> ranges;
  for (const json& item : list) ranges.push_back({item.at(0).get<uint16_t>(), item.at(1).get<uint16_t>()});
  return ranges;
}

json RuleToJson(const Rule& rule) {
  return {{"name", rule.name},
          {"protocols", rule.protocols},
          {"src", PrefixesToJson(rule.src)},
          {"dst", PrefixesToJson(rule.dst)},
          {"sports", PortsToJson(rule.sports)},
          {"dports", PortsToJson(rule.dports)},
          {"action", rule.action},
          {"fail_mode", rule.fail_mode},
          {"source", rule.source},
          {"matches_nothing", rule.matches_nothing},
          {"line", rule.line},
          {"column", rule.column}};
}

Rule RuleFromJson(const json& j) {
  return {.name = j.at("name"),
          .protocols = j.at("protocols").get<std::vector<uint8_t>>(),
          .src = PrefixesFromJson(j.at("src")),
          .dst = PrefixesFromJson(j.at("dst")),
          .sports = PortsFromJson(j.at("sports")),
          .dports = PortsFromJson(j.at("dports")),
          .action = j.at("action").get<tpx_action>(),
          .fail_mode = j.at("fail_mode").get<tpx_fail_mode>(),
          .source = j.at("source").get<tpx_source_mode>(),
          .matches_nothing = j.at("matches_nothing"),
          .line = j.at("line"),
          .column = j.at("column")};
}

json TimeoutsToJson(const policy::Timeouts& t) {
  return {{"connect_ms", t.connect_ms},
          {"idle_ms", t.idle_ms},
          {"half_closed_ms", t.half_closed_ms},
          {"drain_ms", t.drain_ms},
          {"lease_ms", t.lease_ms},
          {"keepalive_idle_s", t.keepalive_idle_s},
          {"keepalive_interval_s", t.keepalive_interval_s},
          {"keepalive_count", t.keepalive_count}};
}

policy::Timeouts TimeoutsFromJson(const json& j) {
  return {.connect_ms = j.at("connect_ms"),
          .idle_ms = j.at("idle_ms"),
          .half_closed_ms = j.at("half_closed_ms"),
          .drain_ms = j.at("drain_ms"),
          .lease_ms = j.at("lease_ms"),
          .keepalive_idle_s = j.at("keepalive_idle_s"),
          .keepalive_interval_s = j.at("keepalive_interval_s"),
          .keepalive_count = j.at("keepalive_count")};
}

Config FromJson(const json& j) {
  Config config;
  config.interfaces = InterfacesFromJson(j.at("interfaces"));
  config.steering = SteeringFromJson(j.at("steering"));
  for (const json& rule : j.at("rules")) config.policy.rules.push_back(RuleFromJson(rule));
  const json& proxy = j.at("proxy");
  config.proxy = {.workers = proxy.at("workers"),
                  .max_sessions = proxy.at("max_sessions"),
                  .pipes = proxy.at("pipes"),
                  .timeouts = TimeoutsFromJson(proxy.at("timeouts"))};
  return config;
}

}  // namespace

json SteeringToJson(const policy::Steering& s) {
  return {{"mark_mask", s.mark_mask},     {"steer_mark", s.steer_mark},       {"own_mark", s.own_mark},
          {"route_table", s.route_table}, {"rule_priority", s.rule_priority}, {"attach", s.attach}};
}

policy::Steering SteeringFromJson(const json& j) {
  return {.mark_mask = j.at("mark_mask"),
          .steer_mark = j.at("steer_mark"),
          .own_mark = j.at("own_mark"),
          .route_table = j.at("route_table"),
          .rule_priority = j.at("rule_priority"),
          .attach = j.at("attach").get<policy::AttachMode>()};
}

json InterfacesToJson(const policy::Interfaces& i) { return {{"lan", i.lan}, {"wan", i.wan}}; }

policy::Interfaces InterfacesFromJson(const json& j) {
  return {.lan = j.at("lan").get<std::vector<std::string>>(),
          .wan = j.at("wan").get<std::vector<std::string>>()};
}

std::string EncodeConfig(const policy::Config& config) {
  json rules = json::array();
  for (const Rule& rule : config.policy.rules) rules.push_back(RuleToJson(rule));
  const json j = {{"interfaces", InterfacesToJson(config.interfaces)},
                  {"steering", SteeringToJson(config.steering)},
                  {"rules", rules},
                  {"proxy",
                   {{"workers", config.proxy.workers},
                    {"max_sessions", config.proxy.max_sessions},
                    {"pipes", config.proxy.pipes},
                    {"timeouts", TimeoutsToJson(config.proxy.timeouts)}}}};
  return j.dump(-1, ' ', false, json::error_handler_t::replace);
}

absl::StatusOr<policy::Config> DecodeConfig(const std::string& text) {
  try {
    return FromJson(json::parse(text));
  } catch (const std::exception& e) {  // the library's only way to tell
    return absl::DataLossError(StrCat("stored configuration: ", e.what()));
  }
}

}  // namespace tpx::control
