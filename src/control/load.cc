// SPDX-License-Identifier: Apache-2.0
#include <net/if.h>

#include <atomic>
#include <optional>
#include <utility>

#include "attach.h"
#include "config_json.h"
#include "instance.h"
#include "journal.h"
#include "local_addresses.h"
#include "local_output.h"
#include "plan.h"
#include "publish.h"
#include "state.h"
#include "tpx/base/status.h"
#include "tpx/base/strings.h"
#include "tpx/bpf/link.h"
#include "tpx/bpf/maps.h"
#include "tpx/bpf/object.h"
#include "tpx/bpf/pin_dir.h"
#include "tpx/control/lifecycle.h"
#include "tpx/sys/file.h"
#include "tpx/sys/mount.h"
#include "tpx/sys/netns.h"
#include "undo.h"
#include "xdp.h"

namespace tpx::control {
namespace {

// Why what is pinned can't be used; nothing when it is loaded and whole.
std::optional<std::string> FindFault(const Paths& paths, const State& state) {
  const absl::StatusOr<uint64_t> netns = sys::CurrentNetns();
  if (!netns.ok() || *netns != state.netns) return "it was loaded in another network namespace";
  if (state.abi_version != TPX_ABI_VERSION) return "another version of the program loaded it";
  const auto control = bpf::OpenControl(paths.pins, bpf::Access::kReadOnly);
  if (!control.ok()) return StrCat(control.status().message());
  if ((*control)[0].abi_version != TPX_ABI_VERSION) return "another version of the program loaded it";
  const absl::StatusOr<bpf::LinkState> lookup = bpf::InspectLink(SkLookupLinkPin(paths.pins));
  if (!lookup.ok() || lookup->target != *netns) return "its sk_lookup program is not attached";
  for (const Device& device : state.devices) {
    const bool exists = if_nametoindex(device.name.c_str()) == static_cast<unsigned>(device.ifindex);
    if (exists && AttachedProgram(paths.pins, device) == 0)
      return StrCat(Describe(device), " is not attached");
  }
  return std::nullopt;
}

absl::StatusOr<LoadReport> AlreadyLoaded(const Paths& paths, const State& state,
                                         std::string_view config_text) {
  LoadReport report{.already_loaded = true, .lines = {}, .devices = state.devices, .rules = {}, .routes = {}};
  TPX_ASSIGN_OR_RETURN(report.generation, LiveGeneration(paths.pins));
  report.lines.push_back(StrCat("already loaded (generation ", report.generation, "), nothing changed"));
  const absl::StatusOr<std::string> text = sys::ReadFile(ConfigTextPath(paths));
  if (text.ok() && *text != config_text) {
    report.lines.emplace_back(
        "the configuration differs from the loaded one; run 'tpx-bpf reload' to apply it");
  }
  if (state.build != bpf::BuildId()) {
    report.lines.emplace_back(
        "the programs in the kernel are those of another build; run 'tpx-bpf upgrade' to replace them");
  }
  return report;
}

void Describe(const State& state, LoadReport& report) {
  report.devices = state.devices;
  for (const sys::LocalRoute& route : RoutesOf(state)) report.routes.push_back(route.ToString());
  for (const sys::PolicyRule& rule : AllRulesOf(state)) report.rules.push_back(rule.ToString());
}

class Loader {
 public:
  Loader(const Paths& paths, const policy::Config& config, std::string_view config_text, Plan& plan,
         sys::Rtnl& rtnl, Journal& journal, std::vector<std::string>& notes)
      : paths_(paths),
        config_(config),
        config_text_(config_text),
        plan_(plan),
        notes_(notes),
        site_{paths, bpf::StageDir(paths.pins), rtnl, journal} {}

  absl::Status Run();

 private:
  absl::Status MakeStage();
  absl::Status LoadPrograms();
  absl::Status Publish();
  absl::Status Commit();

  const Paths& paths_;
  const policy::Config& config_;
  std::string_view config_text_;
  Plan& plan_;
  std::vector<std::string>& notes_;
  Site site_;
};

absl::Status Loader::MakeStage() {
  const std::string root = bpf::PinRoot(paths_.pins);
  TPX_ASSIGN_OR_RETURN(const bool is_bpffs, sys::IsBpffs(root));
  if (!is_bpffs) {
    TPX_RETURN_IF_ERROR(
        site_.journal.Record(BpffsEntry{root}, StrCat("mounting a BPF file system on ", root)));
    TPX_RETURN_IF_ERROR(sys::MountBpffs(root));
    notes_.push_back(StrCat("mounted a BPF file system on ", root));
  }
  TPX_RETURN_IF_ERROR(bpf::CheckPinRoot(root, notes_));
  TPX_RETURN_IF_ERROR(site_.journal.Step(StrCat("making ", site_.pins)));
  return bpf::CreatePinDir(site_.pins);
}

absl::Status Loader::LoadPrograms() {
  TPX_RETURN_IF_ERROR(site_.journal.Step("loading the programs into the kernel"));
  TPX_ASSIGN_OR_RETURN(const bpf::Object object, bpf::Object::Load(KnobsOf(plan_.state)));
  TPX_RETURN_IF_ERROR(site_.journal.Step("pinning programs and maps"));
  TPX_RETURN_IF_ERROR(object.PinPrograms(site_.pins));
  TPX_RETURN_IF_ERROR(object.PinMaps(site_.pins));
  return bpf::SecurePinDir(site_.pins, notes_);
}

absl::Status Loader::Publish() {
  constexpr uint32_t kFirst = 1;
  TPX_RETURN_IF_ERROR(site_.journal.Step("publishing the policy"));
  TPX_ASSIGN_OR_RETURN(auto control, bpf::OpenControl(site_.pins, bpf::Access::kReadWrite));
  std::atomic_ref(control[0].abi_version).store(TPX_ABI_VERSION);
  plan_.state.rule_counters[kFirst] = AssignCounters({}, config_.policy, *plan_.compiled.tables);
  TPX_ASSIGN_OR_RETURN(const TablesMap tables, FillGeneration(site_.pins, plan_.compiled, kFirst));
  return SwitchGeneration(site_.pins, kFirst, tables);
}

absl::Status Loader::Commit() {
  TPX_RETURN_IF_ERROR(site_.journal.Step("writing the state"));
  TPX_RETURN_IF_ERROR(sys::WriteFileAtomic(ConfigTextPath(paths_), config_text_));
  TPX_RETURN_IF_ERROR(sys::WriteFileAtomic(ConfigJsonPath(paths_), EncodeConfig(config_)));
  TPX_RETURN_IF_ERROR(WriteState(paths_, plan_.state));
  TPX_RETURN_IF_ERROR(site_.journal.Step(StrCat("publishing ", paths_.pins)));
  return bpf::PublishPinDir(site_.pins, paths_.pins);
}

absl::Status Loader::Run() {
  State& state = plan_.state;
  TPX_RETURN_IF_ERROR(site_.journal.Record(NetnsEntry{state.netns}, "starting the journal"));
  TPX_RETURN_IF_ERROR(MakeStage());
  TPX_RETURN_IF_ERROR(LoadPrograms());
  TPX_RETURN_IF_ERROR(Publish());
  TPX_RETURN_IF_ERROR(site_.journal.Step("storing the gateway's own addresses"));
  TPX_RETURN_IF_ERROR(SyncLocalAddresses(site_.pins, site_.rtnl));
  TPX_RETURN_IF_ERROR(AddRoutes(site_, state));
  for (const Device& device : state.devices) TPX_RETURN_IF_ERROR(AddRules(site_, state, device));
  TPX_RETURN_IF_ERROR(AttachSkLookup(site_));
  for (Device& device : state.devices) TPX_RETURN_IF_ERROR(AttachProgram(site_, device));
  if (state.local.enabled) TPX_RETURN_IF_ERROR(SyncLocal(site_, state, notes_));
  TPX_RETURN_IF_ERROR(SyncXdp(site_, state, XdpAttempts::kAll, notes_));
  return Commit();
}

absl::Status RefuseSecondInstance(uint64_t netns) {
  TPX_ASSIGN_OR_RETURN(const bool other, bpf::SkLookupAttached(netns));
  if (!other) return absl::OkStatus();
  return absl::FailedPreconditionError(
      "another instance is loaded in this network namespace; detach it first (tpx-bpf detach --instance "
      "NAME)");
}

absl::StatusOr<LoadReport> LoadFresh(const Paths& paths, const policy::Config& config,
                                     std::string_view config_text, const Checkpoint& checkpoint) {
  LoadReport report;
  TPX_ASSIGN_OR_RETURN(sys::Rtnl rtnl, sys::Rtnl::Open());
  TPX_ASSIGN_OR_RETURN(Plan plan, MakePlan(config, rtnl));
  TPX_RETURN_IF_ERROR(RefuseSecondInstance(plan.state.netns));
  report.lines = plan.notes;
  TPX_ASSIGN_OR_RETURN(Journal journal, Journal::Open(paths, checkpoint));
  const absl::Status status = Loader(paths, config, config_text, plan, rtnl, journal, report.lines).Run();
  if (!status.ok()) return Annotate(status, journal.doing());
  Describe(plan.state, report);
  report.generation = 1;
  for (const Device& device : report.devices)
    report.lines.push_back(StrCat("attached to ", Describe(device)));
  for (const std::string& text : report.routes) report.lines.push_back(StrCat("added ", text));
  for (const std::string& text : report.rules) report.lines.push_back(StrCat("added ", text));
  report.lines.push_back(StrCat("published policy generation 1 with ", config.policy.rules.size(), " rules"));
  return report;
}

}  // namespace

absl::StatusOr<LoadReport> Load(const Paths& paths, const policy::Config& config,
                                std::string_view config_text, const Checkpoint& checkpoint) {
  TPX_ASSIGN_OR_RETURN(sys::FileLock lock, LockInstance(paths));
  std::vector<std::string> notes;
  std::string leftovers = "removed what an unfinished load left behind";
  if (bpf::Exists(paths.pins)) {
    TPX_RETURN_IF_ERROR(bpf::SecurePinDir(paths.pins, notes));
    const absl::StatusOr<State> state = ReadState(paths);
    std::optional<std::string> fault = StrCat(state.status().message());
    if (state.ok()) fault = FindFault(paths, *state);
    if (!fault.has_value()) return AlreadyLoaded(paths, *state, config_text);
    leftovers = StrCat("removed what was loaded before: ", *fault);
  }
  Undone before;
  TPX_RETURN_IF_ERROR(Undo(paths, nullptr, before));
  if (before.found) notes.push_back(leftovers);

  absl::StatusOr<LoadReport> report = LoadFresh(paths, config, config_text, checkpoint);
  if (report.ok()) {
    report->lines.insert(report->lines.begin(), notes.begin(), notes.end());
    return report;
  }
  Undone rollback;
  const absl::Status undo = Undo(paths, nullptr, rollback);
  if (undo.ok()) RemoveStateDir(paths);
  const absl::Status& why = report.status();
  return absl::Status(why.code(), undo.ok()
                                      ? StrCat(why.message(), "; nothing is loaded")
                                      : StrCat(why.message(), "; and undoing it failed: ", undo.message(),
                                               "; run 'tpx-bpf detach'"));
}

absl::StatusOr<LoadReport> PlanLoad(const Paths& paths, const policy::Config& config) {
  LoadReport report;
  TPX_ASSIGN_OR_RETURN(sys::Rtnl rtnl, sys::Rtnl::Open());
  TPX_ASSIGN_OR_RETURN(Plan plan, MakePlan(config, rtnl));
  report.already_loaded = bpf::Exists(paths.pins);
  report.lines = plan.notes;
  if (report.already_loaded) report.lines.push_back(StrCat("something is loaded at ", paths.pins));
  Describe(plan.state, report);
  for (const Device& device : report.devices)
    report.lines.push_back(StrCat("would attach to ", Describe(device)));
  if (plan.state.local.enabled)
    report.lines.push_back(StrCat("would attach to ", Describe(plan.state.local)));
  for (const std::string& text : report.routes) report.lines.push_back(StrCat("would add ", text));
  for (const std::string& text : report.rules) report.lines.push_back(StrCat("would add ", text));
  return report;
}

absl::StatusOr<StoredConfig> LoadedConfig(const Paths& paths) {
  if (!bpf::Exists(paths.pins)) return absl::NotFoundError("nothing is loaded");
  StoredConfig stored;
  TPX_ASSIGN_OR_RETURN(stored.text, sys::ReadFile(ConfigTextPath(paths)));
  TPX_ASSIGN_OR_RETURN(const std::string json, sys::ReadFile(ConfigJsonPath(paths), size_t{512} << 20));
  TPX_ASSIGN_OR_RETURN(stored.config, DecodeConfig(json));
  return stored;
}

}  // namespace tpx::control
