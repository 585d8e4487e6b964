// SPDX-License-Identifier: Apache-2.0
#include <arpa/inet.h>
#include <netinet/in.h>

#include <nlohmann/json.hpp>
#include <ostream>

#include "command.h"
#include "report.h"
#include "tpx/app/existing.h"
#include "tpx/app/gateway.h"
#include "tpx/base/address.h"
#include "tpx/base/strings.h"

namespace tpx::cli {
namespace {

using control::ChangedFlow;
using control::Treatment;
using Json = nlohmann::ordered_json;

constexpr size_t kShown = 1000;  // without --all

const char* ProtocolName(const ChangedFlow& changed) {
  return changed.flow.proto == IPPROTO_TCP ? "tcp" : "udp";
}
std::string Source(const ChangedFlow& changed) {
  return Endpoint{.addr = {changed.flow.src}, .port = ntohs(changed.flow.sport)}.ToString();
}
std::string Destination(const ChangedFlow& changed) {
  return Endpoint{.addr = {changed.flow.dst}, .port = ntohs(changed.flow.dport)}.ToString();
}

const char* VerdictName(const Treatment& treatment) {
  switch (treatment.action) {
    case TPX_ACTION_BYPASS:
      return "direct";
    case TPX_ACTION_PROXY:
      return "proxy";
    case TPX_ACTION_DROP:
      return "drop";
    case TPX_ACTION_REJECT:
      return "reject";
    case TPX_ACTION_REDIRECT:
      return "redirect";
  }
  return "";
}

const char* SourceName(tpx_source_mode source) {
  return source == TPX_SOURCE_PRESERVE ? "preserve" : "masquerade";
}

const char* ForwardName(const ChangedFlow& changed, const Treatment& treatment) {
  constexpr const char* kNames[] = {"stack", "fib", "auto"};
  return kNames[changed.flow.proto == IPPROTO_UDP ? treatment.forward : TPX_FORWARD_STACK];
}

bool IsPair(const Treatment& treatment) {
  return treatment.action == TPX_ACTION_PROXY && treatment.mapping != TPX_MAPPING_ENDPOINT_INDEPENDENT;
}

std::string Words(const ChangedFlow& changed, const Treatment& treatment) {
  std::string words = VerdictName(treatment);
  if (treatment.action == TPX_ACTION_REDIRECT) words += " to " + treatment.target.ToString();
  if (treatment.action == TPX_ACTION_PROXY && treatment.source)
    words +=
        StrCat(" (", SourceName(*treatment.source), IsPair(treatment) ? ", mapped by destination)" : ")");
  if (std::string_view(ForwardName(changed, treatment)) == "fib") words += ", forwarded by fib,";
  return words + (treatment.rule.empty() ? " by an earlier policy" : StrCat(" by ", Quote(treatment.rule)));
}

Json ToJson(const ChangedFlow& changed, const Treatment& treatment) {
  const bool redirect = treatment.action == TPX_ACTION_REDIRECT;
  return {{"verdict", VerdictName(treatment)},
          {"rule", treatment.rule.empty() ? Json(nullptr) : Json(treatment.rule)},
          {"source", treatment.source ? Json(SourceName(*treatment.source)) : Json(nullptr)},
          {"target", redirect ? Json(treatment.target.ToString()) : Json(nullptr)},
          {"pair", IsPair(treatment)},
          {"forward", ForwardName(changed, treatment)}};
}

Json ToJson(const ChangedFlow& changed) {
  return {{"proto", ProtocolName(changed)},
          {"src", Source(changed)},
          {"dst", Destination(changed)},
          {"device", changed.device.empty() ? Json(nullptr) : Json(changed.device)},
          {"now", ToJson(changed, changed.now)},
          {"then", ToJson(changed, changed.then)},
          {"uncertain", changed.uncertain}};
}

Json ToJson(const control::FlowCount& count) {
  return {{"seen", count.seen}, {"changed", count.changed}, {"uncertain", count.uncertain}};
}

std::vector<std::string> NotesOf(const control::FlowCounts& counts, size_t omitted) {
  std::vector<std::string> notes = {
      "TCP that goes past the proxy is known to nobody on the gateway: it is not among these"};
  if (counts.tcp.uncertain + counts.udp.uncertain > 0)
    notes.push_back(
        StrCat(counts.tcp.uncertain + counts.udp.uncertain,
               " of them are uncertain: rules ask for the link that they came by, which is not "
               "known any more; they are judged without those rules, and a reload leaves them alone"));
  if (omitted > 0) notes.push_back(StrCat(omitted, " more are not shown; --all shows them"));
  return notes;
}

// Shows flows as they are found, so that none is kept.
class Printer {
 public:
  Printer(const Options& options, Env& env) : options_(options), env_(env) {}

  void Show(const ChangedFlow& changed) {
    if (found_++ >= kShown && !options_.all) return;
    if (options_.json) {
      env_.out << (shown_ == 0 ? "{\n  \"flows\": [\n    " : ",\n    ") << Dump(ToJson(changed), -1);
    } else {
      env_.out << ProtocolName(changed) << ' ' << Source(changed) << " -> " << Destination(changed) << ": "
               << Words(changed, changed.now) << " -> " << Words(changed, changed.then)
               << (changed.uncertain ? ", unless its link decides" : "") << '\n';
    }
    ++shown_;
  }

  void End(const control::FlowDifference& difference) {
    const control::FlowCounts& counts = difference.counts;
    const std::vector<std::string> notes = NotesOf(counts, found_ - shown_);
    if (options_.json) {
      const Json rest = {{"omitted", found_ - shown_},
                         {"totals", {{"tcp", ToJson(counts.tcp)}, {"udp", ToJson(counts.udp)}}},
                         {"policy", {{"candidate", options_.diff}, {"generation", difference.generation}}},
                         {"notes", notes}};
      env_.out << (shown_ == 0 ? "{\n  \"flows\": [" : "\n  ") << "],\n" << Dump(rest, 2).substr(2) << '\n';
      return;
    }
    env_.out << counts.tcp.changed << " of " << counts.tcp.seen << " TCP sessions and " << counts.udp.changed
             << " of " << counts.udp.seen << " UDP flows would be judged otherwise by " << options_.diff
             << '\n';
    for (const std::string& note : notes) env_.out << "note     " << note << '\n';
  }

 private:
  // File names may hold bytes that are not UTF-8.
  static std::string Dump(const Json& json, int indent) {
    return json.dump(indent, ' ', false, Json::error_handler_t::replace);
  }

  const Options& options_;
  Env& env_;
  size_t found_ = 0, shown_ = 0;
};

}  // namespace

int RunExplainDiff(const Options& options, Env& env) {
  Printer printer(options, env);
  const auto difference = app::DiffFlows(app::InstancePaths(options.instance), options.diff,
                                         [&](const ChangedFlow& changed) { printer.Show(changed); });
  if (!difference.ok()) return Fail(env, difference.status());
  printer.End(*difference);
  return kDone;
}

}  // namespace tpx::cli
