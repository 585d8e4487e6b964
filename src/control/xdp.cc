// SPDX-License-Identifier: Apache-2.0
#include "xdp.h"

#include <net/if_arp.h>

#include <algorithm>
#include <optional>
#include <set>

#include "instance.h"
#include "local_output.h"
#include "tpx/base/status.h"
#include "tpx/base/strings.h"
#include "tpx/bpf/dispatcher.h"
#include "tpx/bpf/link.h"
#include "tpx/bpf/pin_dir.h"

namespace tpx::control {
namespace {

constexpr const char* kSwitchedOff = "switched off by the configuration";
constexpr const char* kDispatched = "in libxdp's dispatcher, ";  // and then why there is XDP at all

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

uint32_t LinkedProgram(const std::string& pins, int ifindex) {
  const absl::StatusOr<bpf::LinkState> link = bpf::InspectLink(XdpLinkPin(pins, ifindex));
  return link.ok() && link->target == static_cast<uint32_t>(ifindex) ? link->program_id : 0;
}

// What runs on a device.
struct Running {
  uint32_t ours = 0;                     // program, 0 for none
  bool dispatcher = false;               // libxdp's, with or without ours
  std::optional<std::string> foreign{};  // in words, where there is no place for ours
};

Running RunningOn(const std::string& pins, const sys::LinkInfo& link) {
  const uint32_t ours = LinkedProgram(pins, link.index);
  if (link.xdp == sys::Xdp::kNone || (ours != 0 && link.xdp_program == ours)) return {.ours = ours};
  const std::string name = bpf::ProgramName(link.xdp_program).value_or("");
  if (!bpf::IsDispatcher(name)) {
    return {.ours = ours,
            .foreign = StrCat("somebody else's program ", name.empty() ? "" : Quote(name) + " ",
                              "runs there and is left alone: tc drops")};
  }
  const absl::StatusOr<uint32_t> joined = bpf::ProgramInDispatcher(link.index, pins);
  if (joined.ok()) return {.ours = *joined, .dispatcher = true};
  return {.dispatcher = true,
          .foreign = StrCat("libxdp's dispatcher runs there and cannot be joined (",
                            joined.status().message(), "): tc drops")};
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

// Beside the programs of others, where the dispatcher runs already. What fails is left to a reload.
absl::Status Join(Site& site, const State& state, const sys::LinkInfo& link, const XdpLadder& ladder,
                  EarlyDrop& early) {
  early.dispatched = true;
  TPX_RETURN_IF_ERROR(
      site.journal.Record(DispatcherEntry{link.index}, StrCat("joining libxdp's dispatcher of ", link.name)));
  const absl::Status joined = bpf::JoinDispatcher(link.index, site.pins, KnobsOf(state));
  if (joined.ok()) {
    early.place = PlaceOf(link.xdp);
    early.why = StrCat(kDispatched, ladder.why);
  } else {
    early.failed = true;
    early.why =
        StrCat("libxdp's dispatcher runs there, and joining it failed (", joined.message(), "): tc drops");
  }
  return absl::OkStatus();
}

absl::Status Detach(Site& site, int ifindex, const std::string& name) {
  const std::string pin = XdpLinkPin(site.pins, ifindex);
  if (!bpf::Exists(pin)) return absl::OkStatus();
  TPX_RETURN_IF_ERROR(site.journal.Step(StrCat("detaching XDP from ", name)));
  return bpf::DestroyLink(pin);
}

absl::Status Leave(Site& site, int ifindex, const std::string& name) {
  TPX_RETURN_IF_ERROR(site.journal.Step(StrCat("leaving libxdp's dispatcher of ", name)));
  return bpf::LeaveDispatcher(ifindex, site.pins).status();
}

// Whether what is attached stays as it is.
bool IsSettled(const XdpLadder& ladder, const Running& running, const EarlyDrop* before, XdpPlace now,
               policy::XdpMode asked) {
  if (running.ours == 0) return false;
  if (running.dispatcher) return !ladder.rungs.empty();  // its mode is its owner's
  const bool fits = std::find(ladder.rungs.begin(), ladder.rungs.end(), now) != ladder.rungs.end();
  // Further down the ladder than its top only where the same was asked for before.
  return fits && (now == ladder.rungs.front() || (before != nullptr && before->asked == asked));
}

absl::StatusOr<EarlyDrop> SyncDevice(Site& site, const State& state, const sys::LinkInfo& link,
                                     const std::vector<sys::LinkInfo>& links, XdpAttempts attempts) {
  EarlyDrop early{.device = link.name, .ifindex = link.index, .asked = state.xdp};
  const EarlyDrop* before = Find(state.early, link.index);
  const Running running = RunningOn(site.pins, link);
  const XdpLadder ladder = [&]() -> XdpLadder {
    if (!state.xdp_idle.empty()) return {.why = state.xdp_idle};
    if (running.foreign) return {.why = *running.foreign};
    return LadderOf(state.xdp, link, links);
  }();
  if (IsSettled(ladder, running, before, PlaceOf(link.xdp), state.xdp)) {
    early.place = PlaceOf(link.xdp);
    early.dispatched = running.dispatcher;
    const bool same = before != nullptr && !before->failed && before->place == early.place &&
                      before->dispatched == early.dispatched;
    early.why = same ? before->why : StrCat(running.dispatcher ? kDispatched : "", ladder.why);
    return early;
  }
  TPX_RETURN_IF_ERROR(Detach(site, link.index, link.name));
  if (running.dispatcher && running.ours != 0) {
    TPX_RETURN_IF_ERROR(site.journal.Step(StrCat("leaving libxdp's dispatcher of ", link.name)));
    const absl::Status left = bpf::LeaveDispatcher(link.index, site.pins).status();
    if (!left.ok()) {  // the next call tries again
      early.place = PlaceOf(link.xdp);
      early.dispatched = early.failed = true;
      early.why = StrCat("although ", ladder.why, ": ", left.message());
      return early;
    }
  }
  if (ladder.rungs.empty()) {
    early.why = ladder.why;
    return early;
  }
  const bool again = before != nullptr && before->failed && before->asked == state.xdp &&
                     before->dispatched == running.dispatcher;
  if (again && attempts == XdpAttempts::kNew) return *before;
  TPX_RETURN_IF_ERROR(running.dispatcher ? Join(site, state, link, ladder, early)
                                         : Climb(site, ladder, early));
  return early;
}

// From devices that are gone, or are LAN devices no more.
absl::Status DetachOthers(Site& site, const State& state, const std::vector<sys::LinkInfo>& links,
                          const std::set<int>& wanted) {
  for (const EarlyDrop& early : state.early) {
    if (early.dispatched && wanted.count(early.ifindex) == 0)
      TPX_RETURN_IF_ERROR(Leave(site, early.ifindex, early.device));
  }
  for (const sys::LinkInfo& link : links) {  // what was killed may have joined where the state does not tell
    if (wanted.count(link.index) != 0 || link.xdp == sys::Xdp::kNone) continue;
    const Running running = RunningOn(site.pins, link);
    if (running.dispatcher && running.ours != 0) TPX_RETURN_IF_ERROR(Leave(site, link.index, link.name));
  }
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
  TPX_RETURN_IF_ERROR(DetachOthers(site, state, links, wanted));
  state.early = std::move(early);
  return absl::OkStatus();
}

absl::Status ReplaceXdp(Site& site, const State& state, int program_fd) {
  for (const EarlyDrop& early : state.early) {
    if (LinkedProgram(site.pins, early.ifindex) == 0) continue;
    TPX_RETURN_IF_ERROR(site.journal.Step(StrCat("replacing the XDP program of ", early.device)));
    TPX_RETURN_IF_ERROR(bpf::ReplaceLinkProgram(XdpLinkPin(site.pins, early.ifindex), program_fd));
  }
  return absl::OkStatus();
}

absl::Status RejoinDispatchers(Site& site, State& state, std::vector<std::string>& lines) {
  bool left = false;
  for (const Device& device : state.devices) {
    if (device.role != Role::kLan) continue;
    TPX_RETURN_IF_ERROR(site.journal.Step(StrCat("leaving libxdp's dispatcher of ", device.name)));
    TPX_ASSIGN_OR_RETURN(const bool found, bpf::LeaveDispatcher(device.ifindex, site.pins));
    left |= found;
  }
  // Where ours was the last one there is no dispatcher any more.
  return left ? SyncXdp(site, state, XdpAttempts::kAll, lines) : absl::OkStatus();
}

uint32_t XdpProgram(const std::string& pins, const EarlyDrop& early) {
  if (!early.dispatched) return LinkedProgram(pins, early.ifindex);
  return bpf::ProgramInDispatcher(early.ifindex, pins).value_or(0);
}

}  // namespace tpx::control
