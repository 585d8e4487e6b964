// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tpx/bpf/link.h"
#include "tpx/control/lifecycle.h"
#include "tpx/sys/file.h"
#include "tpx/sys/rtnl.h"

namespace tpx::control {

// Changes to the machine outside our own directories. An entry says that the
// change may have been made, never that it was.
struct NetnsEntry {  // where all the others are
  uint64_t inode = 0;
  friend bool operator==(const NetnsEntry&, const NetnsEntry&) = default;
};
struct BpffsEntry {
  std::string path;
  friend bool operator==(const BpffsEntry&, const BpffsEntry&) = default;
};
struct QdiscEntry {
  int ifindex = 0;
  friend bool operator==(const QdiscEntry&, const QdiscEntry&) = default;
};
struct DispatcherEntry {  // of libxdp, that we joined
  int ifindex = 0;
  friend bool operator==(const DispatcherEntry&, const DispatcherEntry&) = default;
};
struct FilterEntry {
  bpf::Filter filter;
  friend bool operator==(const FilterEntry& a, const FilterEntry& b) {
    return a.filter.ifindex == b.filter.ifindex && a.filter.priority == b.filter.priority &&
           a.filter.handle == b.filter.handle;
  }
};
using JournalEntry = std::variant<NetnsEntry, BpffsEntry, QdiscEntry, FilterEntry, DispatcherEntry,
                                  sys::PolicyRule, sys::LocalRoute>;

std::string EncodeEntry(const JournalEntry& entry);  // one line, no newline
absl::StatusOr<JournalEntry> DecodeEntry(std::string_view line);

// In the order written. None where there is no journal; a last line without
// its end was never completed and is left out, as was the change it announces.
absl::StatusOr<std::vector<JournalEntry>> ReadJournal(const Paths& paths);

// The append side. Also keeps what is being done, for messages.
class Journal {
 public:
  static absl::StatusOr<Journal> Open(const Paths& paths, const Checkpoint& checkpoint);

  // Announces a step that is not recorded (it is undone with our directories).
  absl::Status Step(std::string_view doing);
  // Announces a step and puts its entry on disk.
  absl::Status Record(const JournalEntry& entry, std::string_view doing);
  // Drops the entries for which `done` says that they are undone, and repeated ones.
  absl::Status Forget(const Paths& paths, const std::function<bool(const JournalEntry&)>& done);

  const std::string& doing() const { return doing_; }

 private:
  Journal(sys::SyncedAppender file, Checkpoint checkpoint)
      : file_(std::move(file)), checkpoint_(std::move(checkpoint)) {}
  sys::SyncedAppender file_;
  Checkpoint checkpoint_;
  std::string doing_ = "starting";
};

}  // namespace tpx::control
