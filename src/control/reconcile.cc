// SPDX-License-Identifier: Apache-2.0
#include "reconcile.h"

#include <net/if.h>

#include <algorithm>
#include <variant>

#include "instance.h"
#include "tpx/base/status.h"
#include "tpx/base/strings.h"

namespace tpx::control {
namespace {

bool Contains(const std::vector<Device>& devices, const Device& device) {
  return std::any_of(devices.begin(), devices.end(), [&](const Device& d) { return SameDevice(d, device); });
}

bool IndexExists(int ifindex) {
  char name[IF_NAMESIZE];
  return if_indextoname(static_cast<unsigned>(ifindex), name) != nullptr;
}

// Whether an entry is of no use once the devices are those of the state. The
// qdisc of a device that still exists is left to the detach.
bool IsDone(const JournalEntry& entry, const State& state) {
  if (const auto* qdisc = std::get_if<QdiscEntry>(&entry)) return !IndexExists(qdisc->ifindex);
  if (const auto* joined = std::get_if<DispatcherEntry>(&entry)) {
    const auto is_its = [&](const EarlyDrop& early) { return early.ifindex == joined->ifindex; };
    return !IndexExists(joined->ifindex) && std::none_of(state.early.begin(), state.early.end(), is_its);
  }
  if (const auto* filter = std::get_if<FilterEntry>(&entry)) return !IndexExists(filter->filter.ifindex);
  const auto* rule = std::get_if<sys::PolicyRule>(&entry);
  if (rule != nullptr && rule->iif == "lo") return !state.local.enabled;
  return rule != nullptr && std::none_of(state.devices.begin(), state.devices.end(),
                                         [&](const Device& device) { return device.name == rule->iif; });
}

// The device with the same index, by another name or in another role.
const Device* FindChanged(const std::vector<Device>& devices, const Device& device) {
  const auto it = std::find_if(devices.begin(), devices.end(), [&](const Device& d) {
    return d.ifindex == device.ifindex && !SameDevice(d, device);
  });
  return it == devices.end() ? nullptr : &*it;
}

std::string DescribeChange(const Device* old, const Device& device) {
  if (old == nullptr) return StrCat("attached to ", Describe(device));
  return StrCat(RoleName(old->role), " device ", old->name, " is ",
                old->role == device.role ? device.name : Describe(device), " now");
}

// Whether there is nothing to do. What was killed may have left a device in the
// state twice, with all of it done for the one only.
bool IsSettled(const Attachments& before, const Device& device) {
  return Contains(before.attached, device) && FindChanged(before.devices, device) == nullptr;
}

absl::Status AddDevice(Site& site, const State& state, Device& device) {
  const absl::Status status = [&] {
    TPX_RETURN_IF_ERROR(AddRules(site, state, device));
    return AttachProgram(site, device);
  }();
  return status.ok() ? status : Annotate(status, site.journal.doing());
}

}  // namespace

bool SameDevice(const Device& a, const Device& b) {
  return a.ifindex == b.ifindex && a.name == b.name && a.role == b.role;
}

absl::StatusOr<Attachments> AttachmentsOf(const Site& site, const State& state) {
  Attachments attachments{.devices = state.devices, .attached = {}};
  for (const Device& device : state.devices) {
    TPX_ASSIGN_OR_RETURN(const uint32_t program, FindProgram(site.pins, device));
    if (program != 0) attachments.attached.push_back(device);
  }
  return attachments;
}

absl::Status AddDevices(Site& site, State& state, const Attachments& before,
                        const std::vector<Device>& wanted, std::vector<std::string>& lines) {
  bool changed = false;
  for (Device device : wanted) {
    if (IsSettled(before, device)) continue;
    changed = true;
    device.mode = state.mode;
    if (!Contains(before.devices, device)) state.devices.push_back(std::move(device));
  }
  if (!changed) return absl::OkStatus();
  // The state knows of them first: what is killed leaves nothing that the next
  // call could not find.
  absl::Status status = WriteState(site.paths, state);
  for (Device& device : state.devices) {
    if (!status.ok()) break;
    if (!Contains(wanted, device) || IsSettled(before, device)) continue;
    status = AddDevice(site, state, device);
    lines.push_back(DescribeChange(FindChanged(before.attached, device), device));
  }
  // What only changed its role has nothing left to drop.
  std::erase_if(state.devices, [&](const Device& device) {
    const Device* now = FindChanged(wanted, device);
    return !Contains(wanted, device) && now != nullptr && now->name == device.name;
  });
  if (status.ok()) status = WriteState(site.paths, state);
  if (!status.ok()) PutBackDevices(site, state, before);
  return status;
}

void PutBackDevices(Site& site, State& state, const Attachments& before) {
  for (const Device& device : before.devices) {
    if (!Contains(state.devices, device)) state.devices.push_back(device);
  }
  // Each step is tried: the error that counts is the one before.
  for (Device device : before.attached) (void)AttachProgram(site, device).ok();
  for (const Device& device : state.devices) {
    const bool shares_place = std::any_of(before.attached.begin(), before.attached.end(),
                                          [&](const Device& other) { return SharePlace(other, device); });
    if (!shares_place) (void)DetachProgram(site, device).ok();
  }
  std::vector<std::string> ignored;
  (void)DropDevices(site, state, before.devices, ignored).ok();
  state.devices = before.devices;
  (void)WriteState(site.paths, state).ok();
}

absl::Status DropDevices(Site& site, State& state, const std::vector<Device>& wanted,
                         std::vector<std::string>& lines) {
  const std::vector<Device> before = state.devices;
  for (const Device& device : before) {
    if (Contains(wanted, device)) continue;
    TPX_RETURN_IF_ERROR(Annotate(RemoveDevice(site, state, device), site.journal.doing()));
    std::erase(state.devices, device);
    TPX_RETURN_IF_ERROR(WriteState(site.paths, state));
    if (FindChanged(state.devices, device) == nullptr)
      lines.push_back(StrCat("detached from ", Describe(device)));
  }
  if (state.devices.size() == before.size()) return absl::OkStatus();
  return site.journal.Forget(site.paths, [&](const JournalEntry& entry) { return IsDone(entry, state); });
}

absl::Status RepairRouting(Site& site, const State& state, std::vector<std::string>& lines) {
  TPX_ASSIGN_OR_RETURN(const auto rules, site.rtnl.ListRules());
  for (const sys::PolicyRule& rule : AllRulesOf(state)) {
    if (std::find(rules.begin(), rules.end(), rule) != rules.end()) continue;
    const absl::Status status = site.rtnl.AddRule(rule);
    if (!status.ok() && !absl::IsAlreadyExists(status)) return status;
    lines.push_back(StrCat("added again: ", rule.ToString()));
  }
  TPX_ASSIGN_OR_RETURN(const auto routes, site.rtnl.ListRoutes(state.steering.route_table));
  for (const sys::LocalRoute& route : RoutesOf(state)) {
    if (std::find(routes.begin(), routes.end(), route) != routes.end()) continue;
    const absl::Status status = site.rtnl.AddRoute(route);
    if (!status.ok() && !absl::IsAlreadyExists(status)) return status;
    lines.push_back(StrCat("added again: ", route.ToString()));
  }
  return absl::OkStatus();
}

}  // namespace tpx::control
