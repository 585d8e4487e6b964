// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "command.h"
#include "report.h"
#include "tpx/app/gateway.h"
#include "tpx/app/view.h"

namespace tpx::cli {
namespace {

using Json = nlohmann::ordered_json;

Json DevicesToJson(const control::StateSnapshot& state) {
  Json devices = Json::array();
  for (const control::DeviceState& d : state.devices)
    devices.push_back({{"name", d.device.name},
                       {"role", control::RoleName(d.device.role)},
                       {"ifindex", d.device.ifindex},
                       {"mode", control::ModeName(d.device.mode)},
                       {"attached", d.attached}});
  return devices;
}

Json LocalToJson(const control::StateSnapshot& state) {
  Json local = {{"enabled", state.local.enabled}};
  if (state.local.enabled) local.update({{"cgroup", state.local.cgroup}, {"attached", state.local_attached}});
  return local;
}

Json EarlyDropToJson(const control::StateSnapshot& state) {
  Json devices = Json::array();
  for (const control::EarlyDropState& e : state.early)
    devices.push_back({{"device", e.early.device},
                       {"ifindex", e.early.ifindex},
                       {"xdp", control::XdpPlaceName(e.early.place)},
                       {"dispatcher", e.early.dispatched && e.early.place != control::XdpPlace::kNone},
                       {"why", e.early.why},
                       {"attached", e.attached}});
  return devices;
}

Json RoutesToJson(const std::vector<control::RouteState>& routes) {
  Json list = Json::array();
  for (const control::RouteState& route : routes)
    list.push_back({{"text", route.text}, {"present", route.present}});
  return list;
}

Json RulesToJson(const app::GatewayView& view) {
  Json rules = Json::array();
  for (const app::RuleView& rule : view.rules) {
    Json entry = {{"name", rule.name}, {"action", rule.action}};
    if (*rule.fail_mode != '\0') entry["on_proxy_down"] = rule.fail_mode;
    if (*rule.source != '\0') entry["source"] = rule.source;
    if (*rule.mapping != '\0') entry["mapping"] = rule.mapping;
    if (*rule.forward != '\0') entry["forward"] = rule.forward;
    if (!rule.target.empty()) entry["target"] = rule.target;
    rules.push_back(entry);
  }
  return rules;
}

Json ProxyToJson(const app::GatewayView& view) {
  Json workers = Json::array();
  for (const observe::WorkerView& w : view.counts.workers)
    workers.push_back({{"id", w.id},
                       {"state", observe::WorkerStateName(w.state)},
                       {"lease_ms_left", w.state == TPX_WORKER_ABSENT ? 0 : w.lease_left_ms},
                       {"sessions", w.counters[TPX_C_SESSIONS]},
                       {"udp_sessions", w.counters[TPX_C_UDP_SESSIONS]}});
  Json status = {{"running", view.running()},
                 {"pid", view.proxy_pid()},
                 {"listen_port", view.running() ? view.counts.listen_port : 0},
                 {"workers", workers}};
  if (view.running()) status["watchers"] = view.watchers;
  return status;
}

Json ToJson(const app::GatewayView& view, const std::string& instance) {
  const control::StateSnapshot& state = view.state;
  return {{"loaded", state.loaded},
          {"instance", instance},
          {"abi", state.abi_version},
          {"generation", state.generation},
          {"problems", state.problems},
          {"devices", DevicesToJson(state)},
          {"early_drop", EarlyDropToJson(state)},
          {"sk_lookup_attached", state.sk_lookup_attached},
          {"local", LocalToJson(state)},
          {"routing_rules", RoutesToJson(state.rules)},
          {"routes", RoutesToJson(state.routes)},
          {"rules", RulesToJson(view)},
          {"proxy", ProxyToJson(view)}};
}

void PrintDevices(const control::StateSnapshot& state, Env& env) {
  env.out << "devices\n";
  for (const control::DeviceState& d : state.devices)
    env.out << absl::StrFormat("  %-15s  %-3s  %-6s  %s\n", d.device.name, control::RoleName(d.device.role),
                               control::ModeName(d.device.mode),
                               d.attached ? "attached"
                               : d.exists ? "NOT ATTACHED"
                                          : "gone");
}

void PrintLocal(const control::StateSnapshot& state, Env& env) {
  if (!state.local.enabled) return;
  env.out << "local flows\n  cgroup " << state.local.cgroup << "  "
          << (state.local_attached ? "attached" : "NOT ATTACHED") << '\n';
}

void PrintEarlyDrop(const control::StateSnapshot& state, Env& env) {
  if (state.early.empty()) return;
  env.out << "early drop by XDP\n";
  for (const control::EarlyDropState& e : state.early)
    env.out << absl::StrFormat(
        "  %-15s  %-7s  %s%s\n", e.early.device, control::XdpPlaceName(e.early.place),
        e.early.place != control::XdpPlace::kNone && !e.attached ? "NOT ATTACHED " : "", e.early.why);
}

// "to 192.0.2.1:53, closed when the proxy is down"
std::string Details(const app::RuleView& rule) {
  const std::string forward =
      *rule.forward == '\0' ? "" : absl::StrCat("known flows forwarded by ", rule.forward);
  if (*rule.fail_mode == '\0') return forward;
  const bool by_fib = std::string_view(rule.forward) == "fib";
  std::string details = rule.target.empty() ? rule.source : absl::StrCat("to ", rule.target);
  if (*rule.mapping != '\0') absl::StrAppend(&details, ", ", rule.mapping);
  if (by_fib) absl::StrAppend(&details, ", ", forward);
  return absl::StrCat(details, ", ", rule.fail_mode, " when the proxy is down");
}

void PrintRules(const app::GatewayView& view, Env& env) {
  env.out << "rules (policy generation " << view.state.generation << ")\n";
  int width = 0;
  for (const app::RuleView& rule : view.rules) width = std::max(width, static_cast<int>(rule.name.size()));
  for (size_t i = 0; i < view.rules.size(); i++) {
    const app::RuleView& rule = view.rules[i];
    const std::string details = Details(rule);
    env.out << absl::StrFormat("  %-*s  %-8s %10s new flows%s%s\n", width, rule.name, rule.action,
                               Grouped(view.counts.rules[i].packets), details.empty() ? "" : "  ", details);
  }
}

// What becomes of the rules' forward: auto.
void PrintWatchers(const app::GatewayView& view, Env& env) {
  const bool is_asked = std::ranges::any_of(
      view.rules, [](const app::RuleView& rule) { return std::string_view(rule.forward) == "auto"; });
  if (!is_asked || !view.running()) return;
  if (view.watchers.empty()) {
    uint64_t known = 0;
    for (const observe::WorkerView& w : view.counts.workers) known += w.counters[TPX_C_UDP_TRANSLATED];
    env.out << "  UDP sessions that are known go past the stack, where nobody would miss them: "
            << Grouped(known) << '\n';
  } else {
    env.out
        << "  UDP sessions that are known stay with the workers, past the stack they would be missed by:\n";
    for (const std::string& name : view.watchers) env.out << "    " << name << '\n';
  }
}

void PrintProxy(const app::GatewayView& view, Env& env) {
  if (!view.running()) {
    env.out << "proxy: not running; new flows of proxy rules follow their on_proxy_down\n";
  } else {
    env.out << "proxy: running, pid " << view.proxy_pid() << '\n';
  }
  for (const observe::WorkerView& w : view.counts.workers) {
    if (!view.running() || w.state == TPX_WORKER_ABSENT) continue;
    std::string lease =
        w.alive() ? absl::StrCat("lease runs for ", w.lease_left_ms, " ms")
                  : absl::StrCat("LEASE RAN OUT ", -w.lease_left_ms, " ms ago: hung, gets no new flow");
    env.out << absl::StrFormat("  worker %-3u  %-8s  %s TCP and %s UDP sessions, %s up, %s down, %s\n", w.id,
                               observe::WorkerStateName(w.state), Grouped(w.counters[TPX_C_SESSIONS]),
                               Grouped(w.counters[TPX_C_UDP_SESSIONS]),
                               Bytes(w.counters[TPX_C_BYTES_UP] + w.counters[TPX_C_UDP_BYTES_UP]),
                               Bytes(w.counters[TPX_C_BYTES_DOWN] + w.counters[TPX_C_UDP_BYTES_DOWN]), lease);
  }
  PrintWatchers(view, env);
}

void Print(const app::GatewayView& view, const std::string& instance, Env& env) {
  const control::StateSnapshot& state = view.state;
  if (!state.loaded) {
    env.out << "instance " << instance << ": nothing is loaded\n";
  } else {
    env.out << "instance " << instance << ": loaded\n";
    PrintProxy(view, env);
    PrintDevices(state, env);
    PrintLocal(state, env);
    PrintEarlyDrop(state, env);
    PrintRules(view, env);
  }
  for (const std::string& problem : state.problems) env.out << "problem: " << problem << '\n';
}

}  // namespace

int RunStatus(const Options& options, Env& env) {
  auto view = app::ReadGateway(app::InstancePaths(options.instance));
  if (!view.ok()) return Fail(env, view.status());
  if (options.json)
    env.out << ToJson(*view, options.instance).dump(2) << '\n';
  else
    Print(*view, options.instance, env);
  return kDone;
}

}  // namespace tpx::cli
