// SPDX-License-Identifier: Apache-2.0
#include <utility>

#include "attach.h"
#include "instance.h"
#include "journal.h"
#include "loaded.h"
#include "local_output.h"
#include "state.h"
#include "tpx/base/status.h"
#include "tpx/base/strings.h"
#include "tpx/bpf/link.h"
#include "tpx/bpf/object.h"
#include "tpx/bpf/pin_dir.h"
#include "tpx/control/lifecycle.h"
#include "xdp.h"

namespace tpx::control {
namespace {

// Program descriptors; whoever made them keeps them open.
struct Programs {
  int lan = -1, wan = -1, sk_lookup = -1, xdp = -1;
  std::string pins;  // of those and the others
};

absl::Status ReplaceAll(Site& site, const State& state, const Programs& programs) {
  TPX_RETURN_IF_ERROR(ReplaceSkLookup(site, programs.sk_lookup));
  for (const Device& device : state.devices) {
    const int program = device.role == Role::kLan ? programs.lan : programs.wan;
    TPX_RETURN_IF_ERROR(ReplaceProgram(site, device, program));
  }
  TPX_RETURN_IF_ERROR(ReplaceXdp(site, state, programs.xdp));
  return ReplaceLocal(site, programs.pins);
}

absl::StatusOr<bpf::Object> LoadPrograms(Site& site, const State& state, const std::string& stage) {
  TPX_RETURN_IF_ERROR(site.journal.Step("loading the new programs into the kernel"));
  bpf::Knobs knobs = KnobsOf(state);
  // Also where local flows are left alone by now: no program of the old build shall stay.
  knobs.local = bpf::Exists(StrCat(site.pins, "/", bpf::LocalPrograms().front()));
  TPX_ASSIGN_OR_RETURN(bpf::Object object, bpf::Object::LoadOnMapsOf(site.pins, knobs));
  TPX_RETURN_IF_ERROR(site.journal.Step("pinning the new programs"));
  TPX_RETURN_IF_ERROR(bpf::CreatePinDir(stage));
  TPX_RETURN_IF_ERROR(object.PinPrograms(stage));
  std::vector<std::string> notes;
  TPX_RETURN_IF_ERROR(bpf::SecurePinDir(stage, notes));
  return object;
}

// Attaches the new programs everywhere, or the old ones again.
absl::Status Swap(Site& site, const State& state, const bpf::Object& object, const std::string& stage) {
  TPX_ASSIGN_OR_RETURN(UniqueFd lan, bpf::OpenPinnedProgram(ProgramPin(site.pins, Role::kLan)));
  TPX_ASSIGN_OR_RETURN(UniqueFd wan, bpf::OpenPinnedProgram(ProgramPin(site.pins, Role::kWan)));
  TPX_ASSIGN_OR_RETURN(UniqueFd lookup, bpf::OpenPinnedProgram(SkLookupProgramPin(site.pins)));
  TPX_ASSIGN_OR_RETURN(UniqueFd xdp, bpf::OpenPinnedProgram(XdpProgramPin(site.pins)));
  const absl::Status status = ReplaceAll(site, state,
                                         {.lan = object.lan_fd(),
                                          .wan = object.wan_fd(),
                                          .sk_lookup = object.sk_lookup_fd(),
                                          .xdp = object.xdp_fd(),
                                          .pins = stage});
  if (status.ok()) return status;
  const absl::Status cause = Annotate(status, site.journal.doing());
  const absl::Status back = ReplaceAll(
      site, state,
      {.lan = lan.get(), .wan = wan.get(), .sk_lookup = lookup.get(), .xdp = xdp.get(), .pins = site.pins});
  return absl::Status(cause.code(),
                      back.ok() ? StrCat(cause.message(), "; the old programs run on")
                                : StrCat(cause.message(), "; and putting the old programs back failed: ",
                                         back.message(), "; run 'tpx-bpf detach' and 'tpx-bpf load'"));
}

// The new programs are attached; what fails from here on leaves them so.
absl::Status PublishPins(Site& site, State& state, const std::string& stage,
                         std::vector<std::string>& lines) {
  TPX_RETURN_IF_ERROR(site.journal.Step("publishing the pins of the new programs"));
  TPX_ASSIGN_OR_RETURN(const std::vector<std::string> pins, bpf::ListPins(stage));
  for (const std::string& pin : pins) {
    TPX_RETURN_IF_ERROR(bpf::MovePin(StrCat(stage, "/", pin), StrCat(site.pins, "/", pin)));
  }
  TPX_RETURN_IF_ERROR(bpf::RemovePinDir(stage).status());
  TPX_RETURN_IF_ERROR(RejoinDispatchers(site, state, lines));
  state.build = bpf::BuildId();
  return WriteState(site.paths, state);
}

}  // namespace

absl::StatusOr<UpgradeReport> Upgrade(const Paths& paths, const Checkpoint& checkpoint) {
  TPX_ASSIGN_OR_RETURN(Loaded loaded, OpenLoaded(paths));
  State& state = loaded.state;
  UpgradeReport report{.lines = std::move(loaded.notes)};
  TPX_ASSIGN_OR_RETURN(sys::Rtnl rtnl, sys::Rtnl::Open());
  TPX_ASSIGN_OR_RETURN(Journal journal, Journal::Open(paths, checkpoint));
  Site site{paths, paths.pins, rtnl, journal};
  const std::string stage = bpf::StageDir(paths.pins);
  TPX_RETURN_IF_ERROR(bpf::RemovePinDir(stage).status());  // of one that was killed

  absl::StatusOr<bpf::Object> object = LoadPrograms(site, state, stage);
  absl::Status status = object.status();
  if (!status.ok()) status = Annotate(status, journal.doing());
  if (status.ok()) status = Swap(site, state, *object, stage);
  if (!status.ok()) {
    (void)bpf::RemovePinDir(stage).ok();  // the next call tries again
    return status;
  }
  const bool same = state.build == bpf::BuildId();
  status = PublishPins(site, state, stage, report.lines);
  if (!status.ok()) {
    return absl::Status(status.code(), StrCat(journal.doing(), ": ", status.message(),
                                              "; the new programs are attached, run upgrade again"));
  }
  report.lines.push_back(StrCat("replaced the programs of ", state.devices.size(),
                                " devices and of sk_lookup", same ? " (by the same build)" : ""));
  return report;
}

}  // namespace tpx::control
