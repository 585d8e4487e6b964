// SPDX-License-Identifier: Apache-2.0
#include "journal.h"

#include <algorithm>
#include <sstream>
#include <utility>

#include "absl/strings/str_split.h"
#include "instance.h"
#include "tpx/base/status.h"
#include "tpx/base/strings.h"

namespace tpx::control {
namespace {

template <typename... Ts>
struct Overloaded : Ts... {
  using Ts::operator()...;
};
template <typename... Ts>
Overloaded(Ts...) -> Overloaded<Ts...>;

int FamilyNumber(sys::Family family) { return family == sys::Family::kIpv4 ? 4 : 6; }

std::istream& operator>>(std::istream& in, sys::Family& family) {
  int number = 0;
  in >> number;
  if (number != 4 && number != 6) in.setstate(std::ios::failbit);
  family = number == 4 ? sys::Family::kIpv4 : sys::Family::kIpv6;
  return in;
}

}  // namespace

std::string EncodeEntry(const JournalEntry& entry) {
  return std::visit(
      Overloaded{
          [](const NetnsEntry& e) { return StrCat("netns ", e.inode); },
          [](const BpffsEntry& e) { return StrCat("bpffs ", e.path); },
          [](const QdiscEntry& e) { return StrCat("qdisc ", e.ifindex); },
          [](const DispatcherEntry& e) { return StrCat("dispatcher ", e.ifindex); },
          [](const FilterEntry& e) {
            return StrCat("filter ", e.filter.ifindex, " ", e.filter.priority, " ", e.filter.handle);
          },
          [](const sys::PolicyRule& e) {
            return StrCat("rule ", FamilyNumber(e.family), " ", e.iif, " ", e.from_loopback ? 1 : 0, " ",
                          e.mark, " ", e.mask, " ", e.table, " ", e.priority);
          },
          [](const sys::LocalRoute& e) { return StrCat("route ", FamilyNumber(e.family), " ", e.table); }},
      entry);
}

absl::StatusOr<JournalEntry> DecodeEntry(std::string_view line) {
  std::istringstream in{std::string(line)};
  std::string kind;
  JournalEntry entry;
  in >> kind;
  if (kind == "netns") {
    in >> entry.emplace<NetnsEntry>().inode;
  } else if (kind == "bpffs") {
    std::getline(in >> std::ws, entry.emplace<BpffsEntry>().path);
  } else if (kind == "qdisc") {
    in >> entry.emplace<QdiscEntry>().ifindex;
  } else if (kind == "dispatcher") {
    in >> entry.emplace<DispatcherEntry>().ifindex;
  } else if (kind == "filter") {
    bpf::Filter& filter = entry.emplace<FilterEntry>().filter;
    in >> filter.ifindex >> filter.priority >> filter.handle;
  } else if (kind == "rule") {
    auto& rule = entry.emplace<sys::PolicyRule>();
    in >> rule.family >> rule.iif >> rule.from_loopback >> rule.mark >> rule.mask >> rule.table >>
        rule.priority;
  } else if (kind == "route") {
    auto& route = entry.emplace<sys::LocalRoute>();
    in >> route.family >> route.table;
  } else {
    in.setstate(std::ios::failbit);
  }
  if (in.fail()) return absl::DataLossError(StrCat("unknown line in the journal: ", Quote(line)));
  return entry;
}

absl::StatusOr<std::vector<JournalEntry>> ReadJournal(const Paths& paths) {
  std::vector<JournalEntry> entries;
  absl::StatusOr<std::string> text = sys::ReadFile(JournalPath(paths));
  if (absl::IsNotFound(text.status())) return entries;
  TPX_RETURN_IF_ERROR(text.status());
  const std::string whole = text->substr(0, text->rfind('\n') == std::string::npos ? 0 : text->rfind('\n'));
  for (absl::string_view line : absl::StrSplit(whole, '\n', absl::SkipEmpty())) {
    TPX_ASSIGN_OR_RETURN(JournalEntry entry, DecodeEntry(ToStd(line)));
    entries.push_back(std::move(entry));
  }
  return entries;
}

absl::StatusOr<Journal> Journal::Open(const Paths& paths, const Checkpoint& checkpoint) {
  TPX_ASSIGN_OR_RETURN(sys::SyncedAppender file, sys::SyncedAppender::Open(JournalPath(paths)));
  return Journal(std::move(file), checkpoint);
}

absl::Status Journal::Step(std::string_view doing) {
  doing_ = doing;
  return checkpoint_ ? checkpoint_(doing) : absl::OkStatus();
}

absl::Status Journal::Record(const JournalEntry& entry, std::string_view doing) {
  doing_ = doing;
  TPX_RETURN_IF_ERROR(file_.Append(EncodeEntry(entry)));
  return Step(doing);
}

absl::Status Journal::Forget(const Paths& paths, const std::function<bool(const JournalEntry&)>& done) {
  TPX_ASSIGN_OR_RETURN(std::vector<JournalEntry> entries, ReadJournal(paths));
  std::vector<JournalEntry> kept;
  std::string text;
  for (const JournalEntry& entry : entries) {
    if (done(entry) || std::find(kept.begin(), kept.end(), entry) != kept.end()) continue;
    kept.push_back(entry);
    text += EncodeEntry(entry) + "\n";
  }
  TPX_RETURN_IF_ERROR(sys::WriteFileAtomic(JournalPath(paths), text));
  TPX_ASSIGN_OR_RETURN(file_, sys::SyncedAppender::Open(JournalPath(paths)));
  return absl::OkStatus();
}

}  // namespace tpx::control
