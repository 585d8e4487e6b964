// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"
#include "command.h"
#include "report.h"
#include "tpx/app/gateway.h"
#include "tpx/app/view.h"

namespace tpx::cli {
namespace {

using Json = nlohmann::ordered_json;
using Totals = std::array<uint64_t, TPX_WORKER_COUNTER_COUNT>;

constexpr const char* kNothingYet = "  nothing yet\n";

Totals Sum(const std::vector<observe::WorkerView>& workers) {
  Totals totals{};
  for (const auto& worker : workers)
    for (size_t i = 0; i < totals.size(); i++) totals[i] += worker.counters[i];
  return totals;
}

Json NamedCounters(const Totals& values) {
  Json named = Json::object();
  for (size_t i = 0; i < values.size(); i++)
    named[observe::NameOf(static_cast<tpx_worker_counter>(i)).name] = values[i];
  return named;
}

Json EventsToJson(const observe::EventCounts& events) {
  return {{"trace_matched", events.matched},   {"trace_sent", events.sent},
          {"trace_lost", events.lost},         {"log_sent", events.log_sent},
          {"log_skipped", events.log_skipped}, {"log_lost", events.log_lost}};
}

Json ToJson(const app::GatewayView& view) {
  Json reasons = Json::array(), rules = Json::array(), workers = Json::array();
  for (size_t i = 0; i < TPX_REASON_COUNT; i++) {
    const observe::ReasonName& name = observe::NameOf(static_cast<tpx_reason>(i));
    const observe::Count& count = view.counts.reasons[i];
    reasons.push_back({{"name", name.name},
                       {"hook", name.hook},
                       {"effect", name.effect},
                       {"packets", count.packets},
                       {"bytes", count.bytes},
                       {"by_xdp", count.by_xdp},
                       {"text", name.text}});
  }
  for (size_t i = 0; i < view.counts.rules.size(); i++)
    rules.push_back({{"name", view.rules[i].name},
                     {"action", view.rules[i].action},
                     {"packets", view.counts.rules[i].packets},
                     {"bytes", view.counts.rules[i].bytes},
                     {"by_xdp", view.counts.rules[i].by_xdp}});
  for (const auto& worker : view.counts.workers)
    workers.push_back({{"id", worker.id},
                       {"state", observe::WorkerStateName(worker.state)},
                       {"counters", NamedCounters(worker.counters)}});
  return {{"generation", view.counts.generation},
          {"reasons", reasons},
          {"rules", rules},
          {"events", EventsToJson(view.counts.events)},
          {"workers", workers},
          {"totals", NamedCounters(Sum(view.counts.workers))}};
}

void PrintReasons(const app::GatewayView& view, const char* hook, const char* title, Env& env) {
  env.out << title << '\n';
  bool any = false;
  uint64_t by_xdp = 0;
  for (size_t i = 0; i < TPX_REASON_COUNT; i++) {
    const observe::ReasonName& name = observe::NameOf(static_cast<tpx_reason>(i));
    const observe::Count& count = view.counts.reasons[i];
    if (count.packets == 0 || std::string_view(name.hook) != hook) continue;
    env.out << absl::StrFormat("  %14s  %-6s %-20s %s\n", Grouped(count.packets), name.effect, name.name,
                               name.text);
    by_xdp += count.by_xdp;
    any = true;
  }
  if (!any) env.out << kNothingYet;
  if (by_xdp != 0) env.out << absl::StrFormat("  %14s  of these judged by XDP\n", Grouped(by_xdp));
}

void PrintEvents(const observe::EventCounts& events, Env& env) {
  struct Line {
    uint64_t count;
    const char *name, *text;
  };
  const Line lines[] = {
      {events.sent, "trace_sent", "events sent to 'trace'"},
      {events.lost, "trace_lost", "events lost because 'trace' did not read them in time"},
      {events.log_sent, "log_sent", "flows of rules with 'log' sent to the proxy"},
      {events.log_skipped, "log_skipped", "of these left out: more than 10 a second of one rule on one CPU"},
      {events.log_lost, "log_lost", "of these lost: no proxy was there to write them"}};
  const bool any =
      std::any_of(std::begin(lines), std::end(lines), [](const Line& l) { return l.count != 0; });
  if (any) env.out << "events\n";
  for (const Line& line : lines)
    if (line.count != 0)
      env.out << absl::StrFormat("  %14s  %-27s %s\n", Grouped(line.count), line.name, line.text);
}

void Print(const app::GatewayView& view, Env& env) {
  PrintReasons(view, "tc", "packets, by what became of them at tc ingress", env);
  PrintReasons(view, "lookup", "lookups, by what became of them at sk_lookup", env);
  if (view.state.local.enabled)
    PrintReasons(view, "local", "calls of the gateway's own processes, by what became of them", env);
  env.out << "new flows, by rule (policy generation " << view.counts.generation << ")\n";
  for (size_t i = 0; i < view.counts.rules.size(); i++)
    env.out << absl::StrFormat("  %14s  %-8s %s\n", Grouped(view.counts.rules[i].packets),
                               view.rules[i].action, view.rules[i].name);
  PrintEvents(view.counts.events, env);
  env.out << "proxy, all workers\n";
  Totals totals = Sum(view.counts.workers);
  if (totals == Totals{}) env.out << kNothingYet;
  for (size_t i = 0; i < totals.size(); i++) {
    const observe::CounterName& name = observe::NameOf(static_cast<tpx_worker_counter>(i));
    if (totals[i] != 0)
      env.out << absl::StrFormat("  %14s  %-27s %s\n", Grouped(totals[i]), name.name, name.text);
  }
}

}  // namespace

int RunCounters(const Options& options, Env& env) {
  auto view = app::ReadGateway(app::InstancePaths(options.instance));
  if (!view.ok()) return Fail(env, view.status());
  if (!view->state.loaded)
    return Fail(env, absl::NotFoundError("nothing is loaded; 'tpx-bpf load' or 'tpx-bpf run' does that"));
  if (view->foreign()) return Fail(env, absl::FailedPreconditionError(view->state.problems.front()));
  if (options.json)
    env.out << ToJson(*view).dump(2) << '\n';
  else
    Print(*view, env);
  return kDone;
}

}  // namespace tpx::cli
