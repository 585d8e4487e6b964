// SPDX-License-Identifier: Apache-2.0
#include <utility>

#include "attach.h"
#include "config_json.h"
#include "instance.h"
#include "journal.h"
#include "loaded.h"
#include "local_addresses.h"
#include "local_output.h"
#include "plan.h"
#include "publish.h"
#include "reconcile.h"
#include "state.h"
#include "tpx/base/status.h"
#include "tpx/base/strings.h"
#include "tpx/control/lifecycle.h"
#include "tpx/sys/file.h"
#include "xdp.h"

namespace tpx::control {
namespace {

absl::Status CheckReloadable(const State& state, const policy::Config& config) {
  if (!(state.steering == config.steering)) {
    return absl::FailedPreconditionError(
        "the steering section changed, which needs 'tpx-bpf detach' and 'tpx-bpf load'; the old one runs on");
  }
  return absl::OkStatus();
}

// The rules of both generations are on disk while either may be live.
absl::Status PublishNext(Site& site, State& state, Plan& plan, const policy::Config& config, uint32_t live) {
  const uint32_t next = live + 1 == 0 ? 2 : live + 1;  // 0 means none; 2 keeps to the other slot
  const RuleCounters old_counters = state.rule_counters[live];
  const RuleCounters counters = AssignCounters(old_counters, config.policy, *plan.compiled.tables);
  TPX_RETURN_IF_ERROR(site.journal.Step("filling the new policy generation"));
  TPX_ASSIGN_OR_RETURN(const TablesMap tables, FillGeneration(site.pins, plan.compiled, next));
  TPX_RETURN_IF_ERROR(ClearCounters(site.pins, old_counters, counters));
  state.rule_counters = {{live, old_counters}, {next, counters}};
  TPX_RETURN_IF_ERROR(WriteState(site.paths, state));
  TPX_RETURN_IF_ERROR(site.journal.Step("publishing the new policy generation"));
  return SwitchGeneration(site.pins, next, tables);
}

// From here on the new policy is live and errors no longer undo it.
absl::Status Finish(Site& site, State& state, Plan& plan, const policy::Config& config,
                    std::string_view config_text, uint32_t old, ReloadReport& report) {
  TPX_RETURN_IF_ERROR(site.journal.Step("writing the state"));
  state.interfaces = config.interfaces;
  const bool judged_local = state.local.enabled;
  state.local = plan.state.local;
  state.xdp = plan.state.xdp;
  state.xdp_idle = plan.state.xdp_idle;
  TPX_RETURN_IF_ERROR(WriteState(site.paths, state));
  TPX_RETURN_IF_ERROR(sys::WriteFileAtomic(ConfigTextPath(site.paths), config_text));
  TPX_RETURN_IF_ERROR(sys::WriteFileAtomic(ConfigJsonPath(site.paths), EncodeConfig(config)));
  TPX_RETURN_IF_ERROR(site.journal.Step("releasing the old policy generation"));
  TPX_RETURN_IF_ERROR(DropGeneration(site.pins, old));
  state.rule_counters.erase(old);
  TPX_RETURN_IF_ERROR(WriteState(site.paths, state));
  TPX_RETURN_IF_ERROR(DropDevices(site, state, plan.state.devices, report.lines));
  if (judged_local || state.local.enabled) TPX_RETURN_IF_ERROR(SyncLocal(site, state, report.lines));
  TPX_RETURN_IF_ERROR(RepairRouting(site, state, report.lines));
  TPX_RETURN_IF_ERROR(SyncXdp(site, state, XdpAttempts::kAll, report.lines));
  TPX_RETURN_IF_ERROR(WriteState(site.paths, state));
  return SyncLocalAddresses(site.pins, site.rtnl);
}

absl::StatusOr<ReloadReport> Replace(const Paths& paths, Loaded loaded, const policy::Config& config,
                                     std::string_view config_text, const Checkpoint& checkpoint) {
  State& state = loaded.state;
  ReloadReport report{.lines = std::move(loaded.notes), .devices = {}};
  TPX_RETURN_IF_ERROR(CheckReloadable(state, config));
  TPX_ASSIGN_OR_RETURN(sys::Rtnl rtnl, sys::Rtnl::Open());
  TPX_ASSIGN_OR_RETURN(Plan plan, MakePlan(config, rtnl));
  report.lines.insert(report.lines.end(), plan.notes.begin(), plan.notes.end());
  TPX_ASSIGN_OR_RETURN(Journal journal, Journal::Open(paths, checkpoint));
  Site site{paths, paths.pins, rtnl, journal};
  TPX_ASSIGN_OR_RETURN(const uint32_t live, LiveGeneration(paths.pins));

  TPX_ASSIGN_OR_RETURN(const Attachments before, AttachmentsOf(site, state));
  TPX_RETURN_IF_ERROR(AddDevices(site, state, before, plan.state.devices, report.lines));
  absl::Status status = PublishNext(site, state, plan, config, live);
  TPX_ASSIGN_OR_RETURN(report.generation, LiveGeneration(paths.pins));
  if (report.generation == live) {  // not switched, so not OK
    const absl::Status cause = Annotate(status, journal.doing());
    (void)DropGeneration(paths.pins, live + 1).ok();
    PutBackDevices(site, state, before);
    return absl::Status(cause.code(), StrCat(cause.message(), "; generation ", live, " runs on"));
  }
  report.lines.push_back(StrCat("published policy generation ", report.generation, " with ",
                                config.policy.rules.size(), " rules"));
  status = Finish(site, state, plan, config, config_text, live, report);
  if (!status.ok()) {
    return absl::Status(status.code(), StrCat(journal.doing(), ": ", status.message(), "; generation ",
                                              report.generation, " is live, run reload again"));
  }
  report.devices = state.devices;
  return report;
}

}  // namespace

absl::StatusOr<ReloadReport> Reload(const Paths& paths, const policy::Config& config,
                                    std::string_view config_text, const Checkpoint& checkpoint) {
  TPX_ASSIGN_OR_RETURN(Loaded loaded, OpenLoaded(paths));
  return Replace(paths, std::move(loaded), config, config_text, checkpoint);
}

absl::StatusOr<ReloadReport> ReloadChanged(const Paths& paths, const ConfigChange& change,
                                           const Checkpoint& checkpoint) {
  TPX_ASSIGN_OR_RETURN(Loaded loaded, OpenLoaded(paths));
  TPX_ASSIGN_OR_RETURN(const StoredConfig stored, LoadedConfig(paths));
  TPX_ASSIGN_OR_RETURN(const policy::Config config, change(stored));
  return Replace(paths, std::move(loaded), config, stored.text, checkpoint);
}

}  // namespace tpx::control
