// SPDX-License-Identifier: Apache-2.0
#include "event_view.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>

#include <atomic>
#include <cstring>
#include <ctime>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "tpx/base/status.h"
#include "tpx/base/strings.h"
#include "tpx/bpf/maps.h"
#include "tpx/control/snapshot.h"

namespace tpx::app {
namespace {

int64_t NowNs(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

const char* VerdictOf(const tpx_event& event, std::string_view effect) {
  if (effect == "pass") return "direct";
  if (effect == "drop") return "drop";
  if (effect == "answer") return "reject";
  return event.counter != TPX_NO_RULE && event.action == TPX_ACTION_REDIRECT ? "redirect" : "proxy";
}

std::string DeviceName(uint32_t ifindex) {
  char name[IF_NAMESIZE];
  if (ifindex == 0) return "";
  return if_indextoname(ifindex, name) != nullptr ? name : StrCat("#", ifindex);
}

bool HasPorts(const tpx_event& event) {
  return event.flow.proto == IPPROTO_TCP || event.flow.proto == IPPROTO_UDP;
}

std::string EndToString(const Endpoint& end, bool ports) {
  return ports ? end.ToString() : end.addr.ToString();
}

}  // namespace

std::string ProtocolName(uint8_t proto) {
  switch (proto) {
    case IPPROTO_TCP:
      return "tcp";
    case IPPROTO_UDP:
      return "udp";
    case IPPROTO_ICMP:
      return "icmp";
    case IPPROTO_ICMPV6:
      return "icmpv6";
    default:
      return StrCat("protocol-", uint32_t{proto});
  }
}

const char* HookName(uint8_t hook) {
  constexpr const char* kNames[] = {"tc", "lookup", "xdp", "cgroup"};
  return hook < std::size(kNames) ? kNames[hook] : "unknown";
}

std::string ProcessName(const tpx_process& process) {
  return absl::Utf8SafeCHexEscape(std::string(process.comm, strnlen(process.comm, sizeof(process.comm))));
}

Endpoint SourceOf(const tpx_event& event) {
  return {.addr = {event.flow.src}, .port = ntohs(event.flow.sport)};
}

Endpoint DestinationOf(const tpx_event& event) {
  return {.addr = {event.flow.dst}, .port = ntohs(event.flow.dport)};
}

std::string Describe(const EventView& view) {
  const bool ports = HasPorts(view.event);
  std::string text =
      StrCat(view.verdict, " ", ProtocolName(view.event.flow.proto), " ",
             EndToString(SourceOf(view.event), ports), " > ", EndToString(DestinationOf(view.event), ports));
  if (!view.device.empty()) absl::StrAppend(&text, " in ", view.device);
  if (view.rule) absl::StrAppend(&text, " by rule ", *view.rule);
  absl::StrAppend(&text, ": ", view.reason.name);
  if (view.event.worker != TPX_NO_WORKER) absl::StrAppend(&text, ", worker ", uint32_t{view.event.worker});
  if (view.event.length != 0) absl::StrAppend(&text, ", ", view.event.length, " bytes");
  const tpx_process& process = view.event.process;
  if (process.pid != 0) {
    absl::StrAppend(&text, ", of ", ProcessName(process), " (pid ", process.pid, ", uid ", process.uid, ")");
  }
  return text;
}

absl::StatusOr<EventNames> EventNames::Open(const control::Paths& paths) {
  TPX_ASSIGN_OR_RETURN(auto control, bpf::OpenControl(paths.pins, bpf::Access::kReadOnly));
  EventNames names(paths, std::move(control));
  TPX_RETURN_IF_ERROR(names.Follow().status());
  return names;
}

absl::StatusOr<bool> EventNames::Follow() {
  const uint32_t live = std::atomic_ref(control_[0].generation).load(std::memory_order_acquire);
  if (live == generation_) return false;
  TPX_RETURN_IF_ERROR(Read(live));
  generation_ = live;
  return true;
}

// A counter changes its name two generations later at the earliest.
absl::Status EventNames::Read(uint32_t live) {
  TPX_ASSIGN_OR_RETURN(auto counters, control::ReadRuleCounters(paths_));
  live_ = std::move(counters[live]);
  for (const auto& [name, counter] : live_) names_[counter] = name;
  return absl::OkStatus();
}

EventView EventNames::ViewOf(const tpx_event& event) const {
  EventView view{.event = event};
  view.unix_ns = NowNs(CLOCK_REALTIME) - NowNs(CLOCK_MONOTONIC) + static_cast<int64_t>(event.time_ns);
  view.reason = event.reason < TPX_REASON_COUNT ? observe::NameOf(static_cast<tpx_reason>(event.reason))
                                                : observe::ReasonName{"unknown", "", "", ""};
  view.verdict = VerdictOf(event, view.reason.effect);
  view.device = DeviceName(event.ifindex);
  if (event.counter == TPX_NO_RULE) return view;
  const auto name = names_.find(event.counter);
  view.rule = name == names_.end() ? StrCat("#", uint32_t{event.counter}) : name->second;
  return view;
}

std::optional<uint32_t> EventNames::CounterOf(const std::string& rule) const {
  const auto found = live_.find(rule);
  return found == live_.end() ? std::nullopt : std::optional(found->second);
}

std::vector<std::string> EventNames::rules() const {
  std::vector<std::string> names;
  for (const auto& [name, counter] : live_) names.push_back(name);
  return names;
}

}  // namespace tpx::app
