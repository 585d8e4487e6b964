// SPDX-License-Identifier: Apache-2.0
#include <charconv>

#include "policy/match.h"
#include "policy/owner.h"
#include "policy/sections.h"

namespace tpx::policy {
namespace {

using Kind = YamlNode::Kind;
using IdLookup = std::function<absl::StatusOr<uint32_t>(const std::string&)>;

constexpr uint32_t kMaxId = 0xfffffffe;  // the next one means "none" in the kernel
constexpr size_t kMaxAccountName = 255, kMaxProgramPath = 4095;

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

std::optional<uint32_t> ParseId(std::string_view text) {
  uint32_t id = 0;
  const bool zeros = text.size() > 1 && text[0] == '0';
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), id);
  if (zeros || error != std::errc() || end != text.data() + text.size() || id > kMaxId) return std::nullopt;
  return id;
}

std::optional<IdRange> ReadIdRange(Diagnostics& out, const YamlNode& node, std::string_view what) {
  const std::string_view text = node.text;
  const size_t dash = text.find('-');
  const std::optional<uint32_t> first = ParseId(text.substr(0, dash));
  const std::optional<uint32_t> last = dash == text.npos ? std::nullopt : ParseId(text.substr(dash + 1));
  if (!first || !last) {
    out.Error(node,
              StrCat(what, ": expected a name, a number or a range such as 1000-1999, got ", Quote(text)));
  } else if (*last < *first) {
    out.Error(node, StrCat(what, ": the range ", Quote(text), " is reversed, did you mean '", *last, "-",
                           *first, "'?"));
  } else if (*last - *first >= kMaxAttributeValues) {
    out.Error(node,
              StrCat(what, ": the range ", Quote(text), " has more than ", kMaxAttributeValues, " numbers"));
  } else {
    return IdRange{*first, *last};
  }
  return std::nullopt;
}

std::optional<IdRange> ReadAccount(Diagnostics& out, const YamlNode& node, std::string_view what,
                                   const IdLookup& lookup) {
  const std::string_view kind = what == "uid" ? "user" : "group";
  if (node.text.empty() || node.text.size() > kMaxAccountName) {
    out.Error(node, StrCat(what, ": ", Quote(node.text), " is no name of a ", kind));
    return std::nullopt;
  }
  const absl::StatusOr<uint32_t> id = lookup ? lookup(node.text) : absl::NotFoundError("");
  if (id.ok()) return IdRange{*id, *id};
  out.Error(node, absl::IsNotFound(id.status())
                      ? StrCat(what, ": there is no ", kind, " ", Quote(node.text))
                      : StrCat(what, ": cannot look up the ", kind, " ", Quote(node.text), ": ",
                               ToStd(id.status().message())));
  return std::nullopt;
}

std::optional<IdRange> ReadId(Diagnostics& out, const YamlNode& node, std::string_view what,
                              const IdLookup& lookup) {
  if (node.kind == Kind::kInt) {
    const std::optional<uint32_t> id = ReadUint(out, node, what, 0, kMaxId);
    return id ? std::optional(IdRange{*id, *id}) : std::nullopt;
  }
  if (!ReadString(out, node, what)) return std::nullopt;
  if (!node.text.empty() && IsDigit(node.text[0])) return ReadIdRange(out, node, what);
  return ReadAccount(out, node, what, lookup);
}

std::string_view ProgramProblem(std::string_view path) {
  if (!path.starts_with('/')) return "is no absolute path";
  if (path.size() > kMaxProgramPath) return "is longer than 4095 bytes";
  return path.find('\0') != path.npos ? "is not a possible path" : "";
}

// `problem` as CgroupProblem.
std::optional<std::string> ReadPath(Diagnostics& out, const YamlNode& node, std::string_view what,
                                    std::string_view (*problem)(std::string_view)) {
  std::optional<std::string> path = ReadString(out, node, what);
  if (!path) return std::nullopt;
  const std::string_view why = problem(*path);
  if (why.empty()) return path;
  out.Error(node, StrCat(what, ": ", Quote(*path), " ", why));
  return std::nullopt;
}

void WarnOfMissing(Diagnostics& out, const YamlNode& node, std::string_view what,
                   const absl::Status& status) {
  const std::string why = absl::IsNotFound(status)
                              ? " does not exist"
                              : StrCat(" cannot be used (", ToStd(status.message()), ")");
  out.Warn(node.line, node.column,
           StrCat(what, ": ", Quote(node.text), why, ": no process has it, until a reload finds it"));
}

// What `lookup` finds; nothing, with a warning, where that fails.
template <typename T>
T Find(Diagnostics& out, const YamlNode& node, std::string_view what,
       const std::function<absl::StatusOr<T>(const std::string&)>& lookup) {
  absl::StatusOr<T> found = lookup ? lookup(node.text) : absl::NotFoundError("");
  if (found.ok()) return *found;
  WarnOfMissing(out, node, what, found.status());
  return T{};
}

template <typename T>
bool IsListed(Diagnostics& out, const YamlNode& node, std::string_view what, const std::vector<T>& list) {
  const bool listed =
      std::any_of(list.begin(), list.end(), [&](const T& match) { return match.path == node.text; });
  if (listed) out.Error(node, StrCat(what, ": ", Quote(node.text), " is listed twice"));
  return listed;
}

}  // namespace

void ReadIds(Diagnostics& out, const YamlNode& node, std::string_view what, const IdLookup& lookup,
             std::vector<IdRange>& ids) {
  ReadList(out, node, what, ids, [&](const YamlNode& item) { return ReadId(out, item, what, lookup); });
}

void ReadCgroups(Diagnostics& out, const YamlNode& node, const OwnerLookup& owners,
                 std::vector<CgroupMatch>& cgroups) {
  ReadList(out, node, "cgroup", cgroups, [&](const YamlNode& item) -> std::optional<CgroupMatch> {
    std::optional<std::string> path = ReadPath(out, item, "cgroup", CgroupProblem);
    if (!path || IsListed(out, item, "cgroup", cgroups)) return std::nullopt;
    return CgroupMatch{.path = *path, .id = Find(out, item, "cgroup", owners.cgroup)};
  });
}

void ReadPrograms(Diagnostics& out, const YamlNode& node, const OwnerLookup& owners,
                  std::vector<ProgramMatch>& programs) {
  ReadList(out, node, "exe", programs, [&](const YamlNode& item) -> std::optional<ProgramMatch> {
    std::optional<std::string> path = ReadPath(out, item, "exe", ProgramProblem);
    if (!path || IsListed(out, item, "exe", programs)) return std::nullopt;
    return ProgramMatch{.path = *path, .file = Find(out, item, "exe", owners.program)};
  });
}

}  // namespace tpx::policy
