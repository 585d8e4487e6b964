// SPDX-License-Identifier: Apache-2.0
#include "policy/sections.h"

namespace tpx::policy {
namespace {

using Kind = YamlNode::Kind;

constexpr size_t kMaxPath = 4095, kMaxPart = 255;  // PATH_MAX - 1, NAME_MAX

}  // namespace

std::string_view CgroupProblem(std::string_view path) {
  if (!path.starts_with('/')) return "does not begin with '/', the root of cgroup v2";
  if (path == "/") return "";
  if (path.size() > kMaxPath) return "is longer than 4095 bytes";
  if (path.find_first_of(std::string_view("\n\0", 2)) != path.npos) return "is not a possible path";
  while (!path.empty()) {
    path.remove_prefix(1);
    const std::string_view part = path.substr(0, path.find('/'));
    if (part.empty() || part == "." || part == "..") return "has a part that is empty, '.' or '..'";
    if (part.size() > kMaxPart) return "has a part that is longer than 255 bytes";
    path.remove_prefix(part.size());
  }
  return "";
}

Local ReadLocal(Diagnostics& out, const YamlNode& node) {
  Local local;
  if (node.kind == Kind::kBool) {
    local.enabled = node.text[0] == 't' || node.text[0] == 'T';
    return local;
  }
  if (node.kind != Kind::kMap) {
    out.Error(node, StrCat("local: expected true, false or {cgroup: path}, got ",
                           node.kind == Kind::kString ? Quote(node.text) : std::string(KindName(node.kind))));
    return local;
  }
  local.enabled = true;
  ReadMap(out, node, "local", {{.key = "cgroup", .read = [&](const YamlNode& value) {
                                  const std::optional<std::string> path = ReadString(out, value, "cgroup");
                                  if (!path) return;
                                  const std::string_view problem = CgroupProblem(*path);
                                  if (!problem.empty())
                                    return out.Error(value, StrCat("cgroup: ", Quote(*path), " ", problem));
                                  local.cgroup = *path;
                                }}});
  return local;
}

}  // namespace tpx::policy
