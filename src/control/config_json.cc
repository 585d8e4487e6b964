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

// [] for none.
json TargetToJson(const Endpoint& target) {
  return target.port == 0 ? json::array() : json::array({target.addr.ToString(), target.port});
}

Endpoint TargetFromJson(const json& j) {
  if (j.empty()) return {};
  absl::StatusOr<IpAddr> addr = IpAddr::Parse(j.at(0).get_ref<const std::string&>());
  if (!addr.ok()) throw std::invalid_argument(StrCat(addr.status().message()));
  return {*addr, j.at(1).get<uint16_t>()};
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
          {"mapping", rule.mapping},
          {"target", TargetToJson(rule.target)},
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
          .mapping = j.at("mapping").get<tpx_mapping>(),
          .target = TargetFromJson(j.at("target")),
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
          {"keepalive_count", t.keepalive_count},
          {"udp_one_way_ms", t.udp_one_way_ms},
          {"udp_answered_ms", t.udp_answered_ms},
          {"udp_stream_ms", t.udp_stream_ms}};
}

policy::Timeouts TimeoutsFromJson(const json& j) {
  return {.connect_ms = j.at("connect_ms"),
          .idle_ms = j.at("idle_ms"),
          .half_closed_ms = j.at("half_closed_ms"),
          .drain_ms = j.at("drain_ms"),
          .lease_ms = j.at("lease_ms"),
          .keepalive_idle_s = j.at("keepalive_idle_s"),
          .keepalive_interval_s = j.at("keepalive_interval_s"),
          .keepalive_count = j.at("keepalive_count"),
          .udp_one_way_ms = j.at("udp_one_way_ms"),
          .udp_answered_ms = j.at("udp_answered_ms"),
          .udp_stream_ms = j.at("udp_stream_ms")};
}

json ProxyToJson(const policy::Proxy& p) {
  return {{"workers", p.workers},
          {"max_sessions", p.max_sessions},
          {"pipes", p.pipes},
          {"max_udp_sessions", p.max_udp_sessions},
          {"max_udp_sessions_per_client", p.max_udp_sessions_per_client},
          {"udp_reply_sockets", p.udp_reply_sockets},
          {"timeouts", TimeoutsToJson(p.timeouts)}};
}

policy::Proxy ProxyFromJson(const json& j) {
  return {.workers = j.at("workers"),
          .max_sessions = j.at("max_sessions"),
          .pipes = j.at("pipes"),
          .max_udp_sessions = j.at("max_udp_sessions"),
          .max_udp_sessions_per_client = j.at("max_udp_sessions_per_client"),
          .udp_reply_sockets = j.at("udp_reply_sockets"),
          .timeouts = TimeoutsFromJson(j.at("timeouts"))};
}

Config FromJson(const json& j) {
  Config config;
  config.interfaces = InterfacesFromJson(j.at("interfaces"));
  config.steering = SteeringFromJson(j.at("steering"));
  for (const json& rule : j.at("rules")) config.policy.rules.push_back(RuleFromJson(rule));
  config.proxy = ProxyFromJson(j.at("proxy"));
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
                  {"proxy", ProxyToJson(config.proxy)}};
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
