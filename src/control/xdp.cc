// SPDX-License-Identifier: Apache-2.0
#include "xdp.h"

#include <net/if_arp.h>

#include <algorithm>
#include <optional>
#include <set>

#include "instance.h"
#include "tpx/base/status.h"
#include "tpx/base/strings.h"
#include "tpx/bpf/link.h"
#include "tpx/bpf/pin_dir.h"

namespace tpx::control {
namespace {

constexpr const char* kSwitchedOff = "switched off by the configuration";
constexpr std::string_view kDispatcher = "xdp_dispatcher";  // of libxdp

bool Drops(const policy::Rule& rule) {
  // What asks for a process is of local flows.
  return !rule.matches_nothing && !rule.asks_for_owner() &&
         (rule.action == TPX_ACTION_DROP || rule.limit.penalty_s != 0);
}

XdpLadder AutomaticLadder(const sys::LinkInfo& link) {
  if (link.kind == "veth") {
    return {
        .why =
            "on a veth it would switch off its peer's segmentation offload, which costs more than it saves"};
  }
  if (!link.kind.empty()) return {.why = StrCat("a device of kind ", link.kind, " is no network card")};
  if (link.bus.empty()) return {.why = "it is no network card"};
  if (link.bus == "virtio" || link.bus == "vmbus" || link.bus == "xen") {
    return {.why = StrCat("on a virtual network card (", link.bus, ") it would switch off offloads")};
  }
  return {.rungs = {XdpPlace::kNative}, .why = StrCat("a network card (", link.bus, ")")};
}

// The program of somebody else on the device, in words.
std::optional<std::string> Foreign(const sys::LinkInfo& link, uint32_t ours) {
  if (link.xdp == sys::Xdp::kNone || (ours != 0 && link.xdp_program == ours)) return std::nullopt;
  const std::string name = bpf::ProgramName(link.xdp_program).value_or("");
  if (name == kDispatcher) return "the dispatcher of libxdp runs there, which is left alone: tc drops";
  return StrCat("somebody else's program ", name.empty() ? "" : Quote(name) + " ",
                "runs there and is left alone: tc drops");
}

XdpPlace PlaceOf(sys::Xdp xdp) { return xdp == sys::Xdp::kNative ? XdpPlace::kNative : XdpPlace::kGeneric; }

const EarlyDrop* Find(const std::vector<EarlyDrop>& early, int ifindex) {
  const auto it =
      std::find_if(early.begin(), early.end(), [&](const EarlyDrop& e) { return e.ifindex == ifindex; });
  return it == early.end() ? nullptr : &*it;
}

// Tries the rungs in turn.
absl::Status Climb(Site& site, const XdpLadder& ladder, EarlyDrop& early) {
  TPX_ASSIGN_OR_RETURN(UniqueFd program, bpf::OpenPinnedProgram(XdpProgramPin(site.pins)));
  std::string failures;
  for (const XdpPlace place : ladder.rungs) {
    TPX_RETURN_IF_ERROR(
        site.journal.Step(StrCat("attaching XDP (", XdpPlaceName(place), ") to ", early.device)));
    const auto hook = place == XdpPlace::kNative ? bpf::XdpHook::kNative : bpf::XdpHook::kGeneric;
    absl::StatusOr<UniqueFd> link = bpf::AttachXdp(program.get(), early.ifindex, hook);
    if (link.ok()) {
      TPX_RETURN_IF_ERROR(site.journal.Step(StrCat("pinning the XDP link of ", early.device)));
      TPX_RETURN_IF_ERROR(bpf::PinLink(link->get(), XdpLinkPin(site.pins, early.ifindex)));
      early.place = place;
      early.why = failures.empty() ? ladder.why : failures;
      return absl::OkStatus();
    }
    failures += StrCat(failures.empty() ? "" : ", ", XdpPlaceName(place), " XDP failed (",
                       link.status().message(), ")");
  }
  early.failed = true;
  early.why = StrCat(failures, ": tc drops");
  return absl::OkStatus();
}

absl::Status Detach(Site& site, int ifindex, const std::string& name) {
  const std::string pin = XdpLinkPin(site.pins, ifindex);
  if (!bpf::Exists(pin)) return absl::OkStatus();
  TPX_RETURN_IF_ERROR(site.journal.Step(StrCat("detaching XDP from ", name)));
  return bpf::DestroyLink(pin);
}

// Whether what is attached stays as it is.
bool IsSettled(const XdpLadder& ladder, const EarlyDrop* before, XdpPlace now, policy::XdpMode asked) {
  const bool fits = std::find(ladder.rungs.begin(), ladder.rungs.end(), now) != ladder.rungs.end();
  // Further down the ladder than its top only where the same was asked for before.
  return fits && (now == ladder.rungs.front() || (before != nullptr && before->asked == asked));
}

absl::StatusOr<EarlyDrop> SyncDevice(Site& site, const State& state, const sys::LinkInfo& link,
                                     const std::vector<sys::LinkInfo>& links, XdpAttempts attempts) {
  EarlyDrop early{.device = link.name, .ifindex = link.index, .asked = state.xdp};
  const EarlyDrop* before = Find(state.early, link.index);
  const uint32_t ours = XdpProgram(site.pins, link.index);
  const XdpLadder ladder = [&]() -> XdpLadder {
    if (!state.xdp_idle.empty()) return {.why = state.xdp_idle};
    if (std::optional<std::string> foreign = Foreign(link, ours)) return {.why = *std::move(foreign)};
    return LadderOf(state.xdp, link, links);
  }();
  if (ours != 0 && IsSettled(ladder, before, PlaceOf(link.xdp), state.xdp)) {
    early.place = PlaceOf(link.xdp);
    early.why = before != nullptr && before->place == early.place ? before->why : ladder.why;
    return early;
  }
  TPX_RETURN_IF_ERROR(Detach(site, link.index, link.name));
  if (ladder.rungs.empty()) {
    early.why = ladder.why;
    return early;
  }
  const bool again = before != nullptr && before->failed && before->asked == state.xdp;
  if (again && attempts == XdpAttempts::kNew) return *before;
  TPX_RETURN_IF_ERROR(Climb(site, ladder, early));
  return early;
}

// From devices that are gone, or are LAN devices no more.
absl::Status DetachOthers(Site& site, const std::set<int>& wanted) {
  constexpr std::string_view kPrefix = "link_xdp_";
  TPX_ASSIGN_OR_RETURN(const std::vector<std::string> pins, bpf::ListPins(site.pins));
  for (const std::string& pin : pins) {
    if (!pin.starts_with(kPrefix)) continue;
    const int ifindex = atoi(pin.c_str() + kPrefix.size());
    if (wanted.count(ifindex) == 0) TPX_RETURN_IF_ERROR(Detach(site, ifindex, StrCat("device ", ifindex)));
  }
  return absl::OkStatus();
}

void Tell(const EarlyDrop& now, const EarlyDrop* before, const State& state,
          std::vector<std::string>& lines) {
  if (before != nullptr && before->place == now.place && before->why == now.why) return;
  const bool was = before != nullptr && before->place != XdpPlace::kNone;
  if (now.place != XdpPlace::kNone) {
    lines.push_back(
        StrCat("drops early on ", now.device, " by ", XdpPlaceName(now.place), " XDP: ", now.why));
  } else if (was || state.xdp_idle.empty()) {
    lines.push_back(StrCat("no early drop by XDP on ", now.device, ": ", now.why));
  }
}

}  // namespace

std::string WhyXdpIsIdle(const policy::Config& config) {
  const std::vector<policy::Rule>& rules = config.policy.rules;
  if (config.xdp == policy::XdpMode::kOff) return kSwitchedOff;
  if (std::none_of(rules.begin(), rules.end(), Drops)) return "no rule drops anything";
  const auto marked =
      std::find_if(rules.begin(), rules.end(), [](const policy::Rule& rule) { return !rule.marks.empty(); });
  if (marked == rules.end()) return "";
  return StrCat("rule ", Quote(marked->name), " asks for a mark, which packets do not have yet");
}

XdpLadder LadderOf(policy::XdpMode asked, const sys::LinkInfo& link,
                   const std::vector<sys::LinkInfo>& links) {
  if (asked == policy::XdpMode::kOff) return {.why = kSwitchedOff};
  if (link.type != ARPHRD_ETHER) return {.why = "it is no Ethernet device"};
  if (link.master != 0) return {.why = "it is a port of another device"};
  for (const sys::LinkInfo& other : links) {
    // Devices take tags out of frames before XDP sees them.
    if (other.kind == "vlan" && other.lower == link.index) {
      return {.why = StrCat("it carries the VLAN ", other.name, ", whose packets look like its own there")};
    }
  }
  if (asked == policy::XdpMode::kAuto) return AutomaticLadder(link);
  if (asked == policy::XdpMode::kGeneric) return {.rungs = {XdpPlace::kGeneric}, .why = "configured"};
  return {.rungs = {XdpPlace::kNative, XdpPlace::kGeneric}, .why = "configured"};
}

absl::Status SyncXdp(Site& site, State& state, XdpAttempts attempts, std::vector<std::string>& lines) {
  TPX_ASSIGN_OR_RETURN(const std::vector<sys::LinkInfo> links, site.rtnl.ListLinks());
  std::set<int> wanted;
  std::vector<EarlyDrop> early;
  for (const Device& device : state.devices) {
    const auto link = std::find_if(links.begin(), links.end(), [&](const sys::LinkInfo& info) {
      return info.index == device.ifindex && info.name == device.name;
    });
    if (device.role != Role::kLan || link == links.end()) continue;
    if (!wanted.insert(device.ifindex).second) continue;
    TPX_ASSIGN_OR_RETURN(EarlyDrop now, SyncDevice(site, state, *link, links, attempts));
    Tell(now, Find(state.early, device.ifindex), state, lines);
    early.push_back(std::move(now));
  }
  TPX_RETURN_IF_ERROR(DetachOthers(site, wanted));
  state.early = std::move(early);
  return absl::OkStatus();
}

absl::Status ReplaceXdp(Site& site, const State& state, int program_fd) {
  for (const EarlyDrop& early : state.early) {
    if (XdpProgram(site.pins, early.ifindex) == 0) continue;
    TPX_RETURN_IF_ERROR(site.journal.Step(StrCat("replacing the XDP program of ", early.device)));
    TPX_RETURN_IF_ERROR(bpf::ReplaceLinkProgram(XdpLinkPin(site.pins, early.ifindex), program_fd));
  }
  return absl::OkStatus();
}

uint32_t XdpProgram(const std::string& pins, int ifindex) {
  const absl::StatusOr<bpf::LinkState> link = bpf::InspectLink(XdpLinkPin(pins, ifindex));
  return link.ok() && link->target == static_cast<uint32_t>(ifindex) ? link->program_id : 0;
}

}  // namespace tpx::control
