// SPDX-License-Identifier: Apache-2.0
#include <netinet/in.h>

#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"
#include "command.h"
#include "flow_arguments.h"
#include "report.h"
#include "tpx/app/explain.h"
#include "tpx/app/gateway.h"
#include "tpx/app/trace.h"
#include "tpx/base/strings.h"

namespace tpx::cli {
namespace {

using Json = nlohmann::ordered_json;

Json RuleToJson(const app::FlowExplained& explained) {
  if (!explained.facts.rule) return nullptr;
  const control::ExplainedRule& rule = *explained.facts.rule;
  return {{"name", rule.name}, {"action", explained.action}, {"line", rule.line}};
}

Json SteeredToJson(const app::FlowExplained& explained) {
  if (!explained.facts.steered) return nullptr;
  const tpx_verdict& steered = *explained.facts.steered;
  return {{"worker", steered.worker},
          {"source", steered.source == TPX_SOURCE_PRESERVE ? "preserve" : "masquerade"}};
}

Json OwnerToJson(const control::TrialFlow& flow) {
  if (!flow.owner) return nullptr;
  return {{"uid", flow.owner->uid},
          {"gid", flow.owner->gid},
          {"cgroup", flow.owner->cgroup},
          {"exe", flow.owner->exe.empty() ? Json(nullptr) : Json(flow.owner->exe)}};
}

Json ToJson(const app::FlowExplained& explained, const control::TrialFlow& flow, const Options& options) {
  const control::Explanation& facts = explained.facts;
  const bool ports = flow.has_ports();
  return {{"flow",
           {{"proto", app::ProtocolName(flow.proto)},
            {"src", ports ? flow.src.ToString() : flow.src.addr.ToString()},
            {"dst", ports ? flow.dst.ToString() : flow.dst.addr.ToString()},
            {"device", facts.device.empty() ? Json(nullptr) : Json(facts.device)},
            {"mark", flow.mark},
            {"owner", OwnerToJson(flow)}}},
          {"verdict", explained.verdict},
          {"outcome", explained.outcome},
          {"rule", RuleToJson(explained)},
          {"reason",
           {{"name", explained.reason.name},
            {"effect", explained.reason.effect},
            {"text", explained.reason.text}}},
          {"steered", SteeredToJson(explained)},
          {"policy",
           {{"candidate", options.config.empty() ? Json(nullptr) : Json(options.config)},
            {"generation", options.config.empty() ? Json(facts.generation) : Json(nullptr)}}},
          {"workers", {{"total", facts.workers}, {"alive", facts.alive}, {"serving", facts.serving}}},
          {"steps", explained.steps},
          {"notes", explained.notes}};
}

void PrintList(const char* title, const std::vector<std::string>& lines, Env& env) {
  for (const std::string& line : lines) {
    env.out << absl::StrFormat("%-8s %s\n", title, line);
    title = "";
  }
}

std::string RuleLine(const app::FlowExplained& explained) {
  if (!explained.facts.rule) return "none: this was decided before the rules";
  const control::ExplainedRule& rule = *explained.facts.rule;
  return StrCat(rule.name, rule.line == 0 ? "" : StrCat(" (line ", rule.line, " of the configuration)"));
}

void Print(const app::FlowExplained& explained, Env& env) {
  PrintList("verdict", {StrCat(explained.verdict, ": ", explained.outcome)}, env);
  PrintList("rule", {RuleLine(explained)}, env);
  PrintList("reason", {StrCat(explained.reason.name, ": ", explained.reason.text)}, env);
  PrintList("steps", explained.steps, env);
  PrintList("note", explained.notes, env);
}

}  // namespace

int RunExplain(const Options& options, Env& env) {
  if (!options.diff.empty()) return RunExplainDiff(options, env);
  const auto flow = ParseFlow(options.flow);
  if (!flow.ok()) {
    Fail(env, flow.status());
    return kUsage;
  }
  const auto explained = app::ExplainFlow(app::InstancePaths(options.instance), options.config, *flow);
  if (!explained.ok()) return Fail(env, explained.status());
  if (options.json) {
    // File names may hold bytes that are not UTF-8.
    env.out << ToJson(*explained, *flow, options).dump(2, ' ', false, Json::error_handler_t::replace) << '\n';
  } else {
    Print(*explained, env);
  }
  return kDone;
}

}  // namespace tpx::cli
