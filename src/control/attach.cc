// SPDX-License-Identifier: Apache-2.0
#include "attach.h"

#include <atomic>
#include <optional>

#include "instance.h"
#include "tpx/base/status.h"
#include "tpx/base/strings.h"
#include "tpx/bpf/link.h"
#include "tpx/bpf/maps.h"
#include "tpx/bpf/pin_dir.h"

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

absl::Status AttachTcx(Site& site, const Device& device, int program_fd) {
  TPX_RETURN_IF_ERROR(site.journal.Step(StrCat("attaching to ", Describe(device))));
  // The link of a device that went leaves its pin, and the index may be in use again.
  TPX_RETURN_IF_ERROR(bpf::DestroyLink(DeviceLinkPin(site.pins, device)));
  TPX_ASSIGN_OR_RETURN(UniqueFd link, bpf::AttachTcx(program_fd, device.ifindex));
  TPX_RETURN_IF_ERROR(site.journal.Step(StrCat("pinning the link of ", device.name)));
  return bpf::PinLink(link.get(), DeviceLinkPin(site.pins, device));
}

// The device with the role or the priority that leads to a program of ours on it,
// if there is one. Looks at the kernel: the state may not know yet what a killed
// process did.
absl::StatusOr<std::optional<Device>> FindPlace(const std::string& pins, Device device) {
  if (device.mode == Mode::kTcx) {
    for (const Role role : {device.role, device.role == Role::kLan ? Role::kWan : Role::kLan}) {
      device.role = role;
      TPX_ASSIGN_OR_RETURN(const uint32_t program, FindProgram(pins, device));
      if (program != 0) return device;
    }
    return std::nullopt;
  }
  for (device.priority = 1; device.priority <= bpf::kFilterPriorities; ++device.priority) {
    TPX_ASSIGN_OR_RETURN(const uint32_t program, FindProgram(pins, device));
    if (program == 0) continue;
    TPX_ASSIGN_OR_RETURN(const std::string name, bpf::ProgramName(program));
    if (bpf::IsDeviceProgram(name)) return device;
  }
  return std::nullopt;
}

// Puts the program in the place of the one that runs there.
absl::Status TakePlace(Site& site, const Device& place, Device& device, int program_fd) {
  device.priority = place.priority;
  if (device.mode == Mode::kClsact) {
    TPX_RETURN_IF_ERROR(site.journal.Record(FilterEntry{FilterOf(device, device.priority)},
                                            StrCat("taking over the filter of ", device.name)));
  } else if (place.role != device.role) {
    TPX_RETURN_IF_ERROR(site.journal.Step(StrCat("renaming the pin of the link of ", device.name)));
    TPX_RETURN_IF_ERROR(bpf::MovePin(DeviceLinkPin(site.pins, place), DeviceLinkPin(site.pins, device)));
  }
  TPX_ASSIGN_OR_RETURN(const uint32_t program, FindProgram(site.pins, device));
  TPX_ASSIGN_OR_RETURN(const uint32_t wanted, bpf::ProgramId(program_fd));
  return program == wanted ? absl::OkStatus() : ReplaceProgram(site, device, program_fd);
}

uint32_t RoleOf(const Device& device) { return device.role == Role::kLan ? TPX_ROLE_LAN : TPX_ROLE_WAN; }

// From then on the programs look for headers where the stack says that they are, which costs more.
absl::Status NoteHeaders(Site& site, const Device& device) {
  TPX_ASSIGN_OR_RETURN(const bool ethernet, site.rtnl.HasEthernetHeaders(device.ifindex));
  if (ethernet) return absl::OkStatus();
  TPX_RETURN_IF_ERROR(site.journal.Step(StrCat("noting that ", device.name, " is no Ethernet device")));
  TPX_ASSIGN_OR_RETURN(auto control, bpf::OpenControl(site.pins, bpf::Access::kReadWrite));
  std::atomic_ref(control[0].headerless).store(1, std::memory_order_release);
  return absl::OkStatus();
}

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
  TPX_RETURN_IF_ERROR(NoteHeaders(site, device));
  TPX_ASSIGN_OR_RETURN(UniqueFd program, bpf::OpenPinnedProgram(ProgramPin(site.pins, device.role)));
  TPX_ASSIGN_OR_RETURN(const std::optional<Device> place, FindPlace(site.pins, device));
  if (place.has_value()) return TakePlace(site, *place, device, program.get());
  return device.mode == Mode::kTcx ? AttachTcx(site, device, program.get())
                                   : AttachFilter(site, device, program.get());
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

absl::Status DetachProgram(Site& site, const Device& device) {
  TPX_RETURN_IF_ERROR(site.journal.Step(StrCat("detaching from ", Describe(device))));
  if (device.mode == Mode::kTcx) return bpf::DestroyLink(DeviceLinkPin(site.pins, device));
  TPX_ASSIGN_OR_RETURN(const std::optional<Device> place, FindPlace(site.pins, device));
  return place.has_value() ? bpf::DetachFilter(FilterOf(device, place->priority)) : absl::OkStatus();
}

absl::Status RemoveDevice(Site& site, const State& state, const Device& device) {
  bool shares_place = false, shares_name = false;
  for (const Device& other : state.devices) {
    if (other == device) continue;
    shares_place |= SharePlace(other, device);
    shares_name |= other.name == device.name;
  }
  if (!shares_place) TPX_RETURN_IF_ERROR(DetachProgram(site, device));
  TPX_RETURN_IF_ERROR(ForgetRole(site, state, device));
  if (shares_name) return absl::OkStatus();
  for (const sys::PolicyRule& rule : RulesOf(state, device)) {
    const absl::Status status = site.rtnl.DeleteRule(rule);
    if (!status.ok() && !absl::IsNotFound(status)) return status;
  }
  return absl::OkStatus();
}

bool SharePlace(const Device& a, const Device& b) {
  if (a.ifindex != b.ifindex || a.mode != b.mode) return false;
  return a.mode == Mode::kClsact || a.role == b.role;
}

absl::StatusOr<uint32_t> FindProgram(const std::string& pins, const Device& device) {
  if (device.mode == Mode::kTcx) {
    const absl::StatusOr<bpf::LinkState> link = bpf::InspectLink(DeviceLinkPin(pins, device));
    if (absl::IsNotFound(link.status())) return 0;
    TPX_RETURN_IF_ERROR(link.status());
    return link->target == static_cast<uint32_t>(device.ifindex) ? link->program_id : 0;
  }
  TPX_ASSIGN_OR_RETURN(const std::optional<uint32_t> program,
                       bpf::InspectFilter(FilterOf(device, device.priority)));
  return program.value_or(0);
}

uint32_t AttachedProgram(const std::string& pins, const Device& device) {
  return FindProgram(pins, device).value_or(0);
}

}  // namespace tpx::control
