// SPDX-License-Identifier: Apache-2.0
#include "config_json.h"

#include <algorithm>
#include <stdexcept>
#include <string_view>
#include <vector>

#include "tpx/base/strings.h"
#include "tpx/policy/prefix_list.h"

namespace tpx::control {
namespace {

using nlohmann::json;
using policy::Config;
using policy::PortRange;
using policy::Rule;

// The prefixes of all rules stand behind the JSON, which has the size of each
// list: a million strings would make it slow to read and write.
size_t WritePrefixes(const std::vector<Prefix>& prefixes, std::string& lists) {
  const size_t before = lists.size();
  policy::AppendPrefixList(prefixes, lists);
  return lists.size() - before;
}

// Takes the list away from `lists`.
std::vector<Prefix> ReadPrefixes(const json& size, std::string_view& lists) {
  const auto bytes = size.get<size_t>();
  if (bytes > lists.size()) throw std::out_of_range("the prefixes are cut off");
  const policy::PrefixListReader reader{
      .on_error = [](int, int, const std::string& message) -> bool { throw std::invalid_argument(message); }};
  auto prefixes = policy::ParsePrefixList(lists.substr(0, bytes), bytes, reader);
  lists.remove_prefix(bytes);
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

json MarksToJson(const std::vector<policy::MarkMatch>& marks) {
  json list = json::array();
  for (const policy::MarkMatch& mark : marks) list.push_back({mark.value, mark.mask});
  return list;
}

std::vector<policy::MarkMatch> MarksFromJson(const json& list) {
  std::vector<policy::MarkMatch> marks;
  for (const json& item : list) marks.push_back({item.at(0).get<uint32_t>(), item.at(1).get<uint32_t>()});
  return marks;
}

json IdsToJson(const std::vector<policy::IdRange>& ranges) {
  json list = json::array();
  for (const policy::IdRange& range : ranges) list.push_back({range.first, range.last});
  return list;
}

std::vector<policy::IdRange> IdsFromJson(const json& list) {
  std::vector<policy::IdRange> ranges;
  for (const json& item : list) ranges.push_back({item.at(0).get<uint32_t>(), item.at(1).get<uint32_t>()});
  return ranges;
}

json CgroupsToJson(const std::vector<policy::CgroupMatch>& cgroups) {
  json list = json::array();
  for (const policy::CgroupMatch& cgroup : cgroups) list.push_back({cgroup.path, cgroup.id});
  return list;
}

std::vector<policy::CgroupMatch> CgroupsFromJson(const json& list) {
  std::vector<policy::CgroupMatch> cgroups;
  for (const json& item : list) cgroups.push_back({.path = item.at(0), .id = item.at(1)});
  return cgroups;
}

json ProgramsToJson(const std::vector<policy::ProgramMatch>& programs) {
  json list = json::array();
  for (const policy::ProgramMatch& program : programs)
    list.push_back({program.path, program.file.inode, program.file.device});
  return list;
}

std::vector<policy::ProgramMatch> ProgramsFromJson(const json& list) {
  std::vector<policy::ProgramMatch> programs;
  for (const json& item : list)
    programs.push_back({.path = item.at(0), .file = {.inode = item.at(1), .device = item.at(2)}});
  return programs;
}

json LimitToJson(const policy::RateLimit& limit) { return {limit.per_second, limit.burst, limit.penalty_s}; }

policy::RateLimit LimitFromJson(const json& j) { return {j.at(0), j.at(1), j.at(2)}; }

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

json RuleToJson(const Rule& rule, std::string& lists) {
  return {{"name", rule.name},
          {"protocols", rule.protocols},
          {"src", WritePrefixes(rule.src, lists)},
          {"dst", WritePrefixes(rule.dst, lists)},
          {"sports", PortsToJson(rule.sports)},
          {"dports", PortsToJson(rule.dports)},
          {"interfaces", rule.interfaces},
          {"macs", rule.macs},
          {"dscps", rule.dscps},
          {"marks", MarksToJson(rule.marks)},
          {"vlans", rule.vlans},
          {"uids", IdsToJson(rule.uids)},
          {"gids", IdsToJson(rule.gids)},
          {"cgroups", CgroupsToJson(rule.cgroups)},
          {"programs", ProgramsToJson(rule.programs)},
          {"negated", rule.negated},
          {"action", rule.action},
          {"fail_mode", rule.fail_mode},
          {"source", rule.source},
          {"mapping", rule.mapping},
          {"target", TargetToJson(rule.target)},
          {"limit", LimitToJson(rule.limit)},
          {"log", rule.log},
          {"forward", rule.forward},
          {"matches_nothing", rule.matches_nothing},
          {"line", rule.line},
          {"column", rule.column}};
}

Rule RuleFromJson(const json& j, std::string_view& lists) {
  return {.name = j.at("name"),
          .protocols = j.at("protocols").get<std::vector<uint8_t>>(),
          .src = ReadPrefixes(j.at("src"), lists),
          .dst = ReadPrefixes(j.at("dst"), lists),
          .sports = PortsFromJson(j.at("sports")),
          .dports = PortsFromJson(j.at("dports")),
          .interfaces = j.at("interfaces"),
          .macs = j.at("macs"),
          .dscps = j.at("dscps").get<std::vector<uint8_t>>(),
          .marks = MarksFromJson(j.at("marks")),
          .vlans = j.at("vlans").get<std::vector<uint16_t>>(),
          .uids = IdsFromJson(j.at("uids")),
          .gids = IdsFromJson(j.at("gids")),
          .cgroups = CgroupsFromJson(j.at("cgroups")),
          .programs = ProgramsFromJson(j.at("programs")),
          .negated = j.at("negated"),
          .action = j.at("action").get<tpx_action>(),
          .fail_mode = j.at("fail_mode").get<tpx_fail_mode>(),
          .source = j.at("source").get<tpx_source_mode>(),
          .mapping = j.at("mapping").get<tpx_mapping>(),
          .target = TargetFromJson(j.at("target")),
          .limit = LimitFromJson(j.at("limit")),
          .log = j.at("log").get<tpx_log_mode>(),
          .forward = j.at("forward").get<tpx_forward>(),
          .matches_nothing = j.at("matches_nothing"),
          .line = j.at("line"),
          .column = j.at("column")};
}

json SetFilesToJson(const std::vector<policy::SetFile>& files) {
  json list = json::array();
  for (const policy::SetFile& file : files)
    list.push_back({{"name", file.name}, {"path", file.path}, {"prefixes", file.prefixes}});
  return list;
}

std::vector<policy::SetFile> SetFilesFromJson(const json& list) {
  std::vector<policy::SetFile> files;
  for (const json& j : list)
    files.push_back({.name = j.at("name"), .path = j.at("path"), .prefixes = j.at("prefixes")});
  return files;
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

Config FromJson(const json& j, std::string_view lists) {
  Config config;
  config.file = j.at("file");
  config.set_files = SetFilesFromJson(j.at("set_files"));
  config.interfaces = InterfacesFromJson(j.at("interfaces"));
  config.local = {.enabled = j.at("local").at("enabled"), .cgroup = j.at("local").at("cgroup")};
  config.steering = SteeringFromJson(j.at("steering"));
  for (const json& rule : j.at("rules")) config.policy.rules.push_back(RuleFromJson(rule, lists));
  if (!lists.empty()) throw std::invalid_argument("there are more prefixes than rules name");
  config.xdp = j.at("xdp").get<policy::XdpMode>();
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
  std::string lists;
  for (const Rule& rule : config.policy.rules) rules.push_back(RuleToJson(rule, lists));
  const json j = {{"file", config.file},
                  {"set_files", SetFilesToJson(config.set_files)},
                  {"interfaces", InterfacesToJson(config.interfaces)},
                  {"local", {{"enabled", config.local.enabled}, {"cgroup", config.local.cgroup}}},
                  {"steering", SteeringToJson(config.steering)},
                  {"rules", rules},
                  {"xdp", config.xdp},
                  {"proxy", ProxyToJson(config.proxy)}};
  return StrCat(j.dump(-1, ' ', false, json::error_handler_t::replace), "\n", lists);
}

absl::StatusOr<policy::Config> DecodeConfig(const std::string& text) {
  try {
    const std::string_view all = text;
    const size_t end = std::min(all.find('\n'), all.size());
    return FromJson(json::parse(all.substr(0, end)), all.substr(std::min(end + 1, all.size())));
  } catch (const std::exception& e) {  // the library's only way to tell
    return absl::DataLossError(StrCat("stored configuration: ", e.what()));
  }
}

}  // namespace tpx::control
