// SPDX-License-Identifier: Apache-2.0
#include "undo.h"

#include <net/if.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <set>
#include <utility>

#include "instance.h"
#include "journal.h"
#include "leftover_sockets.h"
#include "state.h"
#include "tpx/base/status.h"
#include "tpx/base/strings.h"
#include "tpx/bpf/dispatcher.h"
#include "tpx/bpf/link.h"
#include "tpx/bpf/pin_dir.h"
#include "tpx/policy/config.h"
#include "tpx/sys/file_lock.h"
#include "tpx/sys/mount.h"
#include "tpx/sys/netns.h"

namespace tpx::control {
namespace {

std::string DeviceName(int ifindex) {
  char name[IF_NAMESIZE] = {};
  if (if_indextoname(static_cast<unsigned>(ifindex), name) == nullptr)
    return StrCat("device ", ifindex, " (gone)");
  return name;
}

bool Gone(const absl::Status& status) {
  // ENODEV: the device took it along.
  return absl::IsNotFound(status) || status.code() == absl::ErrnoToStatusCode(ENODEV);
}

class Undoer {
 public:
  Undoer(const Paths& paths, const Checkpoint& checkpoint, Undone& undone)
      : paths_(paths), checkpoint_(checkpoint), undone_(undone) {}

  absl::Status Run();

 private:
  template <typename T>
  std::vector<T> Entries() const {  // last one first, each once
    std::vector<T> entries;
    for (auto it = journal_.rbegin(); it != journal_.rend(); ++it) {
      const T* entry = std::get_if<T>(&*it);
      if (entry != nullptr && std::find(entries.begin(), entries.end(), *entry) == entries.end()) {
        entries.push_back(*entry);
      }
    }
    return entries;
  }

  // Whether to go on: false once the checkpoint said stop.
  bool Step(std::string_view doing);
  // Counts a change or keeps the first error.
  void Settle(const absl::Status& status, const std::string& line);

  absl::Status CheckNetns();
  void DetachLinks(const std::string& dir);
  void LeaveDispatchers();
  void DetachFilters();
  void DeleteRules(sys::Rtnl& rtnl);
  void DeleteRoutes(sys::Rtnl& rtnl);
  void DeleteQdiscs(sys::Rtnl& rtnl);
  void DestroySockets(sys::Rtnl& rtnl);
  void RemovePins(const std::string& dir);
  void UnmountBpffs();
  void RemoveStateFiles();
  absl::Status FindTables();

  const Paths& paths_;
  const Checkpoint& checkpoint_;
  Undone& undone_;
  std::vector<JournalEntry> journal_;
  std::set<uint32_t> tables_;  // route tables that are ours to sweep
  bool netns_gone_ = false;
  bool joined_ = false;  // still, as it failed to leave
  bool stopped_ = false;
  absl::Status error_;
};

bool Undoer::Step(std::string_view doing) {
  if (stopped_) return false;
  const absl::Status status = checkpoint_ ? checkpoint_(doing) : absl::OkStatus();
  if (status.ok()) return true;
  stopped_ = true;
  error_.Update(Annotate(status, doing));
  return false;
}

void Undoer::Settle(const absl::Status& status, const std::string& line) {
  if (status.ok()) {
    undone_.found = true;
    undone_.lines.push_back(line);
  } else if (!Gone(status)) {
    error_.Update(status);
  }
}

// Rules and routes can only be removed inside the namespace they are in.
absl::Status Undoer::CheckNetns() {
  const std::vector<NetnsEntry> entries = Entries<NetnsEntry>();
  if (entries.empty()) return absl::OkStatus();
  const uint64_t inode = entries.front().inode;
  TPX_ASSIGN_OR_RETURN(const uint64_t current, sys::CurrentNetns());
  if (inode == current) return absl::OkStatus();
  std::optional<std::string> path = sys::FindNetns(inode);
  bool alive = path.has_value();
  // A link knows better: the number of a namespace may be in use again.
  for (const std::string& dir : {paths_.pins, bpf::StageDir(paths_.pins)}) {
    const absl::StatusOr<bpf::LinkState> link = bpf::InspectLink(SkLookupLinkPin(dir));
    if (link.ok()) alive = link->target == inode;
  }
  if (alive) {
    return absl::FailedPreconditionError(
        StrCat("loaded in network namespace ", inode, ", but this is ", current,
               "; run it there: nsenter --net=", path.value_or("PATH"), " tpx-bpf detach"));
  }
  netns_gone_ = true;
  undone_.lines.push_back(
      StrCat("network namespace ", inode, " is gone, with its rules, routes and devices"));
  return absl::OkStatus();
}

absl::Status Undoer::FindTables() {
  for (const auto& route : Entries<sys::LocalRoute>()) tables_.insert(route.table);
  for (const auto& rule : Entries<sys::PolicyRule>()) tables_.insert(rule.table);
  if (!journal_.empty()) return absl::OkStatus();
  // Without a journal only the tag tells; it may be another instance's, which
  // then has its program attached here.
  TPX_ASSIGN_OR_RETURN(const uint64_t netns, sys::CurrentNetns());
  TPX_ASSIGN_OR_RETURN(const bool other, bpf::SkLookupAttached(netns));
  if (!other) tables_.insert(policy::Steering{}.route_table);
  return absl::OkStatus();
}

// `what` is "sk_lookup", or "xdp" or the role of a device and its number.
std::string LineOfLink(const std::string& what) {
  const std::string number = what.substr(what.rfind('_') + 1);
  const bool device = !number.empty() && std::all_of(number.begin(), number.end(), isdigit);
  if (!device) return "detached the sk_lookup program";
  const std::string name = DeviceName(atoi(number.c_str()));
  if (what.starts_with("xdp_")) return StrCat("detached XDP from device ", name);
  return StrCat("detached from ", what.substr(0, 3), " device ", name);
}

void Undoer::DetachLinks(const std::string& dir) {
  absl::StatusOr<std::vector<std::string>> pins = bpf::ListPins(dir);
  if (!pins.ok()) return error_.Update(pins.status());
  // The name of the sk_lookup link sorts behind those of LAN devices; it goes last.
  std::stable_partition(pins->begin(), pins->end(),
                        [](const std::string& pin) { return pin != "link_sk_lookup"; });
  bool local = false;
  for (const std::string& pin : *pins) {
    if (!pin.starts_with("link_") || !Step(StrCat("unpinning ", pin))) continue;
    const absl::Status status = bpf::DestroyLink(StrCat(dir, "/", pin));
    const std::string what = pin.substr(pin.find('_') + 1);
    const auto programs = bpf::LocalPrograms();
    if (std::find(programs.begin(), programs.end(), what) == programs.end()) {
      Settle(status, LineOfLink(what));
    } else if (std::exchange(local, true) || !status.ok()) {
      error_.Update(status);
    } else {
      Settle(status, "detached from local flows");
    }
  }
}

void Undoer::LeaveDispatchers() {
  for (const DispatcherEntry& entry : Entries<DispatcherEntry>()) {
    const std::string device = DeviceName(entry.ifindex);
    if (!Step(StrCat("leaving libxdp's dispatcher of ", device))) return;
    for (const std::string& dir : {paths_.pins, bpf::StageDir(paths_.pins)}) {
      const absl::StatusOr<bool> left = bpf::LeaveDispatcher(entry.ifindex, dir);
      joined_ |= !left.ok();
      if (!left.ok() || *left) Settle(left.status(), StrCat("detached XDP from device ", device));
    }
  }
}

void Undoer::DetachFilters() {
  for (const FilterEntry& entry : Entries<FilterEntry>()) {
    const absl::StatusOr<std::optional<uint32_t>> program = bpf::InspectFilter(entry.filter);
    if (!program.ok()) {
      error_.Update(program.status());
      continue;
    }
    if (!program->has_value()) continue;
    const absl::StatusOr<std::string> name = bpf::ProgramName(**program);
    // The place may have been taken by somebody else meanwhile.
    if (name.ok() && !bpf::IsDeviceProgram(*name)) continue;
    const std::string device = DeviceName(entry.filter.ifindex);
    if (Step(StrCat("deleting the filter of ", device))) {
      Settle(bpf::DetachFilter(entry.filter), StrCat("detached from device ", device));
    }
  }
}

void Undoer::DeleteRules(sys::Rtnl& rtnl) {
  const absl::StatusOr<std::vector<sys::PolicyRule>> rules = rtnl.ListRules();
  if (!rules.ok()) return error_.Update(rules.status());
  for (const sys::PolicyRule& rule : *rules) {
    if (!tables_.contains(rule.table)) continue;
    if (Step(StrCat("deleting ", rule.ToString()))) {
      Settle(rtnl.DeleteRule(rule), StrCat("deleted ", rule.ToString()));
    }
  }
}

void Undoer::DeleteRoutes(sys::Rtnl& rtnl) {
  for (uint32_t table : tables_) {
    const absl::StatusOr<std::vector<sys::LocalRoute>> routes = rtnl.ListRoutes(table);
    if (!routes.ok()) return error_.Update(routes.status());
    for (const sys::LocalRoute& route : *routes) {
      if (Step(StrCat("deleting ", route.ToString()))) {
        Settle(rtnl.DeleteRoute(route), StrCat("deleted ", route.ToString()));
      }
    }
  }
}

void Undoer::DeleteQdiscs(sys::Rtnl& rtnl) {
  for (const QdiscEntry& entry : Entries<QdiscEntry>()) {
    const absl::StatusOr<bool> exists = rtnl.HasIngressQdisc(entry.ifindex);
    if (!exists.ok() || !*exists) continue;
    const std::string device = DeviceName(entry.ifindex);
    const absl::StatusOr<bool> used = rtnl.HasFilters(entry.ifindex);
    if (!used.ok()) {
      error_.Update(used.status());
    } else if (*used) {
      undone_.lines.push_back(StrCat("left the clsact qdisc of ", device, ": filters of others use it"));
    } else if (Step(StrCat("deleting the clsact qdisc of ", device))) {
      Settle(bpf::DestroyClsact(entry.ifindex), StrCat("deleted the clsact qdisc of ", device));
    }
  }
}

void Undoer::DestroySockets(sys::Rtnl& rtnl) {
  // Without a state no load was completed, and no proxy ran.
  const absl::StatusOr<State> state = ReadState(paths_);
  if (!state.ok() || !Step("destroying closed sockets of the proxy")) return;
  const absl::StatusOr<size_t> destroyed = DestroyLeftoverSockets(state->steering, rtnl);
  if (!destroyed.ok()) {
    undone_.lines.push_back(StrCat("left closed sockets of the proxy to expire, within a minute: ",
                                   destroyed.status().message()));
  } else if (*destroyed > 0) {
    undone_.lines.push_back(StrCat("destroyed ", *destroyed, " closed sockets of the proxy"));
  }
}

void Undoer::RemovePins(const std::string& dir) {
  if (!bpf::Exists(dir) || !Step(StrCat("removing ", dir))) return;
  const absl::StatusOr<bool> removed = bpf::RemovePinDir(dir);
  if (!removed.ok() || *removed) Settle(removed.status(), StrCat("removed ", dir));
}

void Undoer::UnmountBpffs() {
  for (const BpffsEntry& entry : Entries<BpffsEntry>()) {
    if (!Step(StrCat("unmounting ", entry.path))) return;
    const absl::StatusOr<bool> unmounted = sys::UnmountBpffsIfEmpty(entry.path);
    if (!unmounted.ok() || *unmounted) Settle(unmounted.status(), StrCat("unmounted ", entry.path));
  }
}

void Undoer::RemoveStateFiles() {
  const std::optional<pid_t> runner = sys::FileLock::Holder(RunLockPath(paths_));
  if (runner.has_value() && *runner != getpid() && undone_.found) {
    undone_.lines.push_back(StrCat("process ", *runner,
                                   " still runs: it notices within a second, resets its sessions and exits"));
  }
  if (!Step("removing the state files")) return;
  // The journal goes last.
  for (const std::string& path :
       {StatePath(paths_), ConfigTextPath(paths_), ConfigJsonPath(paths_), JournalPath(paths_)}) {
    error_.Update(sys::Remove(path + ".tmp").status());
    error_.Update(sys::Remove(path).status());
  }
}

absl::Status Undoer::Run() {
  TPX_ASSIGN_OR_RETURN(journal_, ReadJournal(paths_));
  undone_.found |= !journal_.empty();
  TPX_RETURN_IF_ERROR(CheckNetns());
  const std::string stage = bpf::StageDir(paths_.pins);
  DetachLinks(paths_.pins);
  DetachLinks(stage);
  LeaveDispatchers();
  if (!netns_gone_) {
    TPX_ASSIGN_OR_RETURN(sys::Rtnl rtnl, sys::Rtnl::Open());
    TPX_RETURN_IF_ERROR(FindTables());
    DetachFilters();
    DeleteRules(rtnl);
    DeleteRoutes(rtnl);
    DeleteQdiscs(rtnl);
    // Not before nothing is steered any more: no further one comes.
    DestroySockets(rtnl);
  }
  if (!joined_) {  // the maps tell which part of a dispatcher is ours
    RemovePins(stage);
    RemovePins(paths_.pins);
  }
  if (error_.ok()) UnmountBpffs();
  if (error_.ok()) RemoveStateFiles();
  return error_;
}

}  // namespace

void RemoveStateDir(const Paths& paths) {
  // Whoever waits for a lock notices that its file went.
  if (!sys::FileLock::Holder(RunLockPath(paths)).has_value()) unlink(RunLockPath(paths).c_str());
  unlink(TraceLockPath(paths).c_str());
  unlink(LockPath(paths).c_str());
  rmdir(paths.state.c_str());
}

absl::Status Undo(const Paths& paths, const Checkpoint& checkpoint, Undone& undone) {
  return Undoer(paths, checkpoint, undone).Run();
}

}  // namespace tpx::control
