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
  if (const auto* filter = std::get_if<FilterEntry>(&entry)) return !IndexExists(filter->filter.ifindex);
  const auto* rule = std::get_if<sys::PolicyRule>(&entry);
  return rule != nullptr && std::none_of(state.devices.begin(), state.devices.end(),
                                         [&](const Device& device) { return device.name == rule->iif; });
}

absl::Status AddDevice(Site& site, State& state, Device device, std::vector<std::string>& lines) {
  device.mode = state.mode;
  const absl::Status status = [&] {
    TPX_RETURN_IF_ERROR(AddRules(site, state, device));
    return AttachProgram(site, device);
  }();
  if (!status.ok()) {
    const absl::Status cause = Annotate(status, site.journal.doing());
    // The error that counts is the first one.
    (void)RemoveDevice(site, state, device).ok();
    return cause;
  }
  lines.push_back(StrCat("attached to ", Describe(device)));
  state.devices.push_back(std::move(device));
  return absl::OkStatus();
}

}  // namespace

bool SameDevice(const Device& a, const Device& b) {
  return a.ifindex == b.ifindex && a.name == b.name && a.role == b.role;
}

absl::Status AddDevices(Site& site, State& state, const std::vector<Device>& wanted,
                        std::vector<std::string>& lines) {
  const std::vector<Device> before = state.devices;
  absl::Status status;
  for (const Device& device : wanted) {
    if (status.ok() && !Contains(before, device)) status = AddDevice(site, state, device, lines);
  }
  if (status.ok()) status = WriteState(site.paths, state);
  if (!status.ok()) {
    std::vector<std::string> ignored;
    (void)DropDevices(site, state, before, ignored).ok();
  }
  return status;
}

absl::Status DropDevices(Site& site, State& state, const std::vector<Device>& wanted,
                         std::vector<std::string>& lines) {
  const std::vector<Device> before = state.devices;
  for (const Device& device : before) {
    if (Contains(wanted, device)) continue;
    TPX_RETURN_IF_ERROR(Annotate(RemoveDevice(site, state, device), site.journal.doing()));
    std::erase(state.devices, device);
    TPX_RETURN_IF_ERROR(WriteState(site.paths, state));
    lines.push_back(StrCat("detached from ", Describe(device)));
  }
  if (state.devices.size() == before.size()) return absl::OkStatus();
  return site.journal.Forget(site.paths, [&](const JournalEntry& entry) { return IsDone(entry, state); });
}

}  // namespace tpx::control
