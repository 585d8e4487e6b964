// SPDX-License-Identifier: Apache-2.0
#include <netinet/in.h>

#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "command.h"
#include "report.h"
#include "tpx/app/gateway.h"
#include "tpx/app/trace.h"
#include "tpx/base/strings.h"
#include "trace_arguments.h"

namespace tpx::cli {
namespace {

using Json = nlohmann::ordered_json;

// null where the device has none, or the hook does not know it.
Json MacToJson(const tpx_event& event) {
  const auto& m = event.mac;
  if ((m[0] | m[1] | m[2] | m[3] | m[4] | m[5]) == 0) return nullptr;
  return absl::StrFormat("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5]);
}

// null where a packet came in.
Json ProcessToJson(const tpx_process& process) {
  if (process.pid == 0) return nullptr;
  return {{"pid", process.pid},
          {"uid", process.uid},
          {"name", app::ProcessName(process)},
          {"cgroup", process.cgroup}};
}

Json ToJson(const app::EventView& view) {
  const tpx_event& event = view.event;
  const bool ports = event.flow.proto == IPPROTO_TCP || event.flow.proto == IPPROTO_UDP;
  const Endpoint src = app::SourceOf(event), dst = app::DestinationOf(event);
  return {{"time",
           absl::FormatTime("%Y-%m-%dT%H:%M:%E6SZ", absl::FromUnixNanos(view.unix_ns), absl::UTCTimeZone())},
          {"verdict", view.verdict},
          {"flow",
           {{"proto", app::ProtocolName(event.flow.proto)},
            {"src", ports ? src.ToString() : src.addr.ToString()},
            {"dst", ports ? dst.ToString() : dst.addr.ToString()},
            {"device", view.device.empty() ? Json(nullptr) : Json(view.device)},
            {"mark", event.mark},
            {"mac", MacToJson(event)}}},
          {"rule", view.rule ? Json(*view.rule) : Json(nullptr)},
          {"reason", {{"name", view.reason.name}, {"effect", view.reason.effect}}},
          {"hook", app::HookName(event.hook)},
          {"worker", event.worker == TPX_NO_WORKER ? Json(nullptr) : Json(event.worker)},
          {"length", event.length},
          {"process", ProcessToJson(event.process)}};
}

void Show(const app::EventView& view, bool json, Env& env) {
  if (json) {
    env.out << ToJson(view).dump() << '\n';
    return;
  }
  env.out << absl::FormatTime("%H:%M:%E6S ", absl::FromUnixNanos(view.unix_ns), absl::LocalTimeZone())
          << app::Describe(view) << '\n';
}

std::string Summarise(const app::TraceSummary& summary) {
  std::string text = StrCat(Grouped(summary.shown), summary.shown == 1 ? " event, " : " events, ",
                            Grouped(summary.lost), " lost because the kernel had no room for them");
  if (summary.sampled_out > 0) text += StrCat(", ", Grouped(summary.sampled_out), " left out by --sample");
  if (summary.pauses > 0)
    text += StrCat("; paused ", summary.pauses, summary.pauses == 1 ? " time" : " times",
                   " because the output was not read");
  return text;
}

}  // namespace

int RunTrace(const Options& options, Env& env) {
  const auto request = ParseTrace(options.trace);
  if (!request.ok()) {
    Fail(env, request.status());
    return kUsage;
  }
  const app::TraceOutput output{
      .show = [&](const app::EventView& view) { Show(view, options.json, env); },
      .flush = [&env] { return env.out.flush().good(); },
      .note = [&env](const std::string& text) { env.err << "tpx-bpf: " << text << std::endl; }};
  const auto summary =
      app::RunTrace(app::InstancePaths(options.instance), request->filter, request->limits, output);
  if (!summary.ok()) return Fail(env, summary.status());
  for (const std::string& note : summary->notes) output.note(note);
  env.err << "tpx-bpf: " << Summarise(*summary) << '\n';
  // Who has seen enough may go.
  if (summary->reader_gone) env.out.clear();
  return kDone;
}

}  // namespace tpx::cli
