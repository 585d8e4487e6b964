// SPDX-License-Identifier: Apache-2.0
#include "attach.h"

#include <algorithm>
#include <optional>

#include "instance.h"
#include "tpx/base/status.h"
#include "tpx/base/strings.h"
#include "tpx/bpf/link.h"
#include "tpx/bpf/maps.h"

namespace tpx::control {
namespace {

bpf::Filter FilterOf(const Device& device, uint32_t priority) {
  return {.ifindex = device.ifindex, .priority = priority, .handle = bpf::kFilterHandle};
}

absl::Status EnsureClsact(Site& site, const Device& device) {
  TPX_ASSIGN_OR_RETURN(bool exists, site.rtnl.HasIngressQdisc(device.ifindex));
  if (exists) return absl::OkStatus();
  TPX_RETURN_IF_ERROR(
      site.journal.Record(QdiscEntry{device.ifindex}, StrCat("adding a clsact qdisc to ", device.name)));
  return bpf::CreateClsact(device.ifindex);
}

absl::Status AttachFilter(Site& site, Device& device, int program_fd) {
  TPX_RETURN_IF_ERROR(EnsureClsact(site, device));
  for (uint32_t priority = 1; priority <= bpf::kFilterPriorities; ++priority) {
    const bpf::Filter filter = FilterOf(device, priority);
    TPX_ASSIGN_OR_RETURN(const std::optional<uint32_t> taken, bpf::InspectFilter(filter));
    if (taken.has_value()) continue;
    TPX_RETURN_IF_ERROR(site.journal.Record(FilterEntry{filter}, StrCat("attaching to ", Describe(device))));
    const absl::Status status = bpf::AttachFilter(filter, program_fd);
    if (absl::IsAlreadyExists(status)) continue;
    if (status.ok()) device.priority = priority;
    return status;
  }
  return absl::ResourceExhaustedError(
      StrCat("filters of others have the priorities 1 to ", bpf::kFilterPriorities, " of ", device.name));
}

uint32_t RoleOf(const Device& device) { return device.role == Role::kLan ? TPX_ROLE_LAN : TPX_ROLE_WAN; }

absl::Status NoteRole(Site& site, const Device& device) {
  TPX_ASSIGN_OR_RETURN(auto devices, bpf::OpenDevices(site.pins, bpf::Access::kReadWrite));
  return devices.Update(static_cast<uint32_t>(device.ifindex), RoleOf(device));
}

// A device that changes its name or its role is in the state twice for a moment.
absl::Status ForgetRole(Site& site, const State& state, const Device& device) {
  for (const Device& other : state.devices) {
    if (other.ifindex == device.ifindex && !(other == device)) return NoteRole(site, other);
  }
  TPX_ASSIGN_OR_RETURN(auto devices, bpf::OpenDevices(site.pins, bpf::Access::kReadWrite));
  const absl::Status status = devices.Delete(static_cast<uint32_t>(device.ifindex));
  return absl::IsNotFound(status) ? absl::OkStatus() : status;
}

}  // namespace

absl::Status AddRules(Site& site, const State& state, const Device& device) {
  for (const sys::PolicyRule& rule : RulesOf(state, device)) {
    TPX_RETURN_IF_ERROR(site.journal.Record(rule, StrCat("adding ", rule.ToString())));
    const absl::Status status = site.rtnl.AddRule(rule);
    if (!status.ok() && !absl::IsAlreadyExists(status)) return status;
  }
  return absl::OkStatus();
}

absl::Status AddRoutes(Site& site, const State& state) {
  for (const sys::LocalRoute& route : RoutesOf(state)) {
    TPX_RETURN_IF_ERROR(site.journal.Record(route, StrCat("adding ", route.ToString())));
    const absl::Status status = site.rtnl.AddRoute(route);
    if (!status.ok() && !absl::IsAlreadyExists(status)) return status;
  }
  return absl::OkStatus();
}

absl::Status AttachProgram(Site& site, Device& device) {
  TPX_RETURN_IF_ERROR(site.journal.Step(StrCat("noting the role of ", device.name)));
  TPX_RETURN_IF_ERROR(NoteRole(site, device));
  TPX_ASSIGN_OR_RETURN(UniqueFd program, bpf::OpenPinnedProgram(ProgramPin(site.pins, device.role)));
  if (device.mode == Mode::kClsact) return AttachFilter(site, device, program.get());
  TPX_RETURN_IF_ERROR(site.journal.Step(StrCat("attaching to ", Describe(device))));
  TPX_ASSIGN_OR_RETURN(UniqueFd link, bpf::AttachTcx(program.get(), device.ifindex));
  TPX_RETURN_IF_ERROR(site.journal.Step(StrCat("pinning the link of ", device.name)));
  return bpf::PinLink(link.get(), DeviceLinkPin(site.pins, device));
}

absl::Status AttachSkLookup(Site& site) {
  TPX_RETURN_IF_ERROR(site.journal.Step("attaching the sk_lookup program"));
  TPX_ASSIGN_OR_RETURN(UniqueFd program, bpf::OpenPinnedProgram(SkLookupProgramPin(site.pins)));
  TPX_ASSIGN_OR_RETURN(UniqueFd link, bpf::AttachSkLookup(program.get()));
  return bpf::PinLink(link.get(), SkLookupLinkPin(site.pins));
}

absl::Status ReplaceProgram(Site& site, const Device& device, int program_fd) {
  if (AttachedProgram(site.pins, device) == 0) return absl::OkStatus();
  TPX_RETURN_IF_ERROR(site.journal.Step(StrCat("replacing the program of ", Describe(device))));
  if (device.mode == Mode::kTcx) return bpf::ReplaceLinkProgram(DeviceLinkPin(site.pins, device), program_fd);
  return bpf::ReplaceFilterProgram(FilterOf(device, device.priority), program_fd);
}

absl::Status ReplaceSkLookup(Site& site, int program_fd) {
  TPX_RETURN_IF_ERROR(site.journal.Step("replacing the sk_lookup program"));
  return bpf::ReplaceLinkProgram(SkLookupLinkPin(site.pins), program_fd);
}

absl::Status RemoveDevice(Site& site, const State& state, const Device& device) {
  TPX_RETURN_IF_ERROR(site.journal.Step(StrCat("detaching from ", Describe(device))));
  if (device.mode == Mode::kTcx) {
    TPX_RETURN_IF_ERROR(bpf::DestroyLink(DeviceLinkPin(site.pins, device)));
  } else if (AttachedProgram(site.pins, device) != 0) {
    TPX_RETURN_IF_ERROR(bpf::DetachFilter(FilterOf(device, device.priority)));
  }
  TPX_RETURN_IF_ERROR(ForgetRole(site, state, device));
  // A device that changes its role is in the state twice for a moment.
  const bool shared = std::any_of(state.devices.begin(), state.devices.end(), [&](const Device& other) {
    return other.name == device.name && !(other == device);
  });
  if (shared) return absl::OkStatus();
  for (const sys::PolicyRule& rule : RulesOf(state, device)) {
    const absl::Status status = site.rtnl.DeleteRule(rule);
    if (!status.ok() && !absl::IsNotFound(status)) return status;
  }
  return absl::OkStatus();
}

uint32_t AttachedProgram(const std::string& pins, const Device& device) {
  if (device.mode == Mode::kTcx) {
    const absl::StatusOr<bpf::LinkState> link = bpf::InspectLink(DeviceLinkPin(pins, device));
    const bool alive = link.ok() && link->target == static_cast<uint32_t>(device.ifindex);
    return alive ? link->program_id : 0;
  }
  const absl::StatusOr<std::optional<uint32_t>> filter =
      bpf::InspectFilter(FilterOf(device, device.priority));
  return filter.ok() ? filter->value_or(0) : 0;
}

}  // namespace tpx::control
