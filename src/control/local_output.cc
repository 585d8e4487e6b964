// SPDX-License-Identifier: Apache-2.0
#include "local_output.h"

#include <algorithm>
#include <atomic>

#include "instance.h"
#include "tpx/base/status.h"
#include "tpx/base/strings.h"
#include "tpx/bpf/link.h"
#include "tpx/bpf/maps.h"
#include "tpx/bpf/pin_dir.h"
#include "tpx/sys/cgroup.h"
#include "tpx/sys/netns.h"

namespace tpx::control {
namespace {

// What is attached to, 0 for nothing. A cgroup that was removed took its links along.
uint64_t CgroupOf(const std::string& pins, std::string_view program) {
  const absl::StatusOr<bpf::LinkState> link = bpf::InspectLink(LocalLinkPin(pins, program));
  return link.ok() ? link->target : 0;
}

absl::Status SetNetnsCookie(Site& site, uint64_t cookie) {
  TPX_RETURN_IF_ERROR(site.journal.Step(cookie == 0 ? "leaving local flows alone" : "judging local flows"));
  TPX_ASSIGN_OR_RETURN(auto control, bpf::OpenControl(site.pins, bpf::Access::kReadWrite));
  std::atomic_ref(control[0].netns_cookie).store(cookie, std::memory_order_release);
  return absl::OkStatus();
}

absl::Status AttachOne(Site& site, const std::string& folder, std::string_view program) {
  TPX_RETURN_IF_ERROR(site.journal.Step(StrCat("attaching ", program)));
  const std::string pin = LocalLinkPin(site.pins, program);
  TPX_RETURN_IF_ERROR(bpf::DestroyLink(pin));
  TPX_ASSIGN_OR_RETURN(UniqueFd fd, bpf::OpenPinnedProgram(StrCat(site.pins, "/", program)));
  TPX_ASSIGN_OR_RETURN(UniqueFd link, bpf::AttachCgroup(fd.get(), folder, program));
  TPX_RETURN_IF_ERROR(site.journal.Step(StrCat("pinning the link of ", program)));
  return bpf::PinLink(link.get(), pin);
}

absl::Status AddLocalRules(Site& site, const State& state) {
  for (const sys::PolicyRule& rule : LocalRulesOf(state)) {
    TPX_RETURN_IF_ERROR(site.journal.Record(rule, StrCat("adding ", rule.ToString())));
    const absl::Status status = site.rtnl.AddRule(rule);
    if (!status.ok() && !absl::IsAlreadyExists(status)) return status;
  }
  return absl::OkStatus();
}

// What was begun under the rules cannot go on without them.
absl::Status DeleteLocalRules(Site& site) {
  TPX_ASSIGN_OR_RETURN(const std::vector<sys::PolicyRule> rules, site.rtnl.ListRules());
  for (const sys::PolicyRule& rule : rules) {
    if (rule.iif != "lo") continue;
    TPX_RETURN_IF_ERROR(site.journal.Step(StrCat("deleting ", rule.ToString())));
    const absl::Status status = site.rtnl.DeleteRule(rule);
    if (!status.ok() && !absl::IsNotFound(status)) return status;
  }
  return absl::OkStatus();
}

// They are there from the load on where local flows were judged then.
absl::Status EnsurePrograms(Site& site, const State& state) {
  const auto programs = bpf::LocalPrograms();
  const bool pinned = std::all_of(programs.begin(), programs.end(), [&](std::string_view program) {
    return bpf::Exists(StrCat(site.pins, "/", program));
  });
  if (pinned) return absl::OkStatus();
  for (std::string_view program : programs)  // of one that was killed here
    TPX_RETURN_IF_ERROR(bpf::DestroyLink(StrCat(site.pins, "/", program)));
  TPX_RETURN_IF_ERROR(site.journal.Step("loading the programs for local flows"));
  TPX_ASSIGN_OR_RETURN(const bpf::Object object, bpf::Object::LoadLocalOnMapsOf(site.pins, KnobsOf(state)));
  TPX_RETURN_IF_ERROR(object.PinPrograms(site.pins));
  std::vector<std::string> notes;
  return bpf::SecurePinDir(site.pins, notes);
}

absl::Status Attach(Site& site, const State& state, std::vector<std::string>& changed) {
  TPX_ASSIGN_OR_RETURN(const std::string folder, sys::CgroupFolder(state.local.cgroup));
  TPX_ASSIGN_OR_RETURN(const uint64_t id, sys::CgroupId(state.local.cgroup));
  TPX_ASSIGN_OR_RETURN(const uint64_t cookie, sys::NetnsCookie());
  TPX_RETURN_IF_ERROR(EnsurePrograms(site, state));
  TPX_RETURN_IF_ERROR(AddLocalRules(site, state));
  // Sockets have to be told from older ones before any of them is judged.
  TPX_RETURN_IF_ERROR(SetNetnsCookie(site, cookie));
  bool attached = false;
  for (std::string_view program : bpf::LocalPrograms()) {
    if (CgroupOf(site.pins, program) == id) continue;
    TPX_RETURN_IF_ERROR(AttachOne(site, folder, program));
    attached = true;
  }
  if (attached) changed.push_back(StrCat("attached to ", Describe(state.local)));
  return absl::OkStatus();
}

absl::Status Detach(Site& site, std::vector<std::string>& changed) {
  TPX_RETURN_IF_ERROR(SetNetnsCookie(site, 0));
  bool detached = false;
  for (std::string_view program : bpf::LocalPrograms()) {
    const std::string pin = LocalLinkPin(site.pins, program);
    if (!bpf::Exists(pin)) continue;
    TPX_RETURN_IF_ERROR(site.journal.Step(StrCat("detaching ", program)));
    TPX_RETURN_IF_ERROR(bpf::DestroyLink(pin));
    detached = true;
  }
  if (detached) changed.emplace_back("detached from local flows");
  return DeleteLocalRules(site);
}

}  // namespace

absl::StatusOr<policy::Local> PlanLocal(const policy::Config& config, std::vector<std::string>& notes) {
  policy::Local local = config.local;
  if (!local.enabled) return local;
  const absl::StatusOr<std::string> folder = sys::CgroupFolder(local.cgroup);
  if (!folder.ok() && !absl::IsNotFound(folder.status())) return folder.status();
  local.enabled = folder.ok();
  if (!local.enabled) {
    notes.push_back(StrCat("warning: local: ", folder.status().message(),
                           "; flows of the gateway's own processes are left alone"));
  }
  return local;
}

absl::Status SyncLocal(Site& site, const State& state, std::vector<std::string>& changed) {
  return state.local.enabled ? Attach(site, state, changed) : Detach(site, changed);
}

absl::Status ReplaceLocal(Site& site, const std::string& programs) {
  for (std::string_view program : bpf::LocalPrograms()) {
    if (CgroupOf(site.pins, program) == 0) continue;
    TPX_RETURN_IF_ERROR(site.journal.Step(StrCat("replacing ", program)));
    TPX_ASSIGN_OR_RETURN(UniqueFd fd, bpf::OpenPinnedProgram(StrCat(programs, "/", program)));
    TPX_RETURN_IF_ERROR(bpf::ReplaceLinkProgram(LocalLinkPin(site.pins, program), fd.get()));
  }
  return absl::OkStatus();
}

bool LocalAttached(const std::string& pins, const policy::Local& local) {
  const absl::StatusOr<uint64_t> id = sys::CgroupId(local.cgroup);
  const auto programs = bpf::LocalPrograms();
  return id.ok() && std::all_of(programs.begin(), programs.end(),
                                [&](std::string_view program) { return CgroupOf(pins, program) == *id; });
}

bpf::Knobs KnobsOf(const State& state) {
  return {.steer_mark = state.steering.steer_mark,
          .mark_mask = state.steering.mark_mask,
          .own_mark = state.steering.own_mark,
          .local = state.local.enabled};
}

std::string Describe(const policy::Local& local) { return StrCat("local flows of cgroup ", local.cgroup); }

}  // namespace tpx::control
