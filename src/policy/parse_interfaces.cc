// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "policy/sections.h"

namespace tpx::policy {
namespace {

constexpr size_t kMaxName = 15;  // IFNAMSIZ - 1
constexpr size_t kMaxPattern = 63;
constexpr size_t kMaxPatterns = 256;

}  // namespace

std::string_view InterfaceProblem(std::string_view name) {
  if (name.empty()) return "is empty";
  bool pattern = name.find_first_of("*?[") != name.npos;
  if (name.size() > (pattern ? kMaxPattern : kMaxName)) {
    return pattern ? "is longer than 63 bytes" : "is longer than 15 bytes";
  }
  bool bad = std::any_of(name.begin(), name.end(),
                         [](unsigned char c) { return c == '/' || c == ':' || c <= ' ' || c == 0x7f; });
  return bad || name == "." || name == ".." ? "is not a possible interface name" : "";
}

namespace {

void ReadList(Diagnostics& out, const YamlNode& node, std::string_view what, std::vector<std::string>& names,
              const std::vector<std::string>& others) {
  for (const YamlNode* item : ReadOneOrMany(out, node, what)) {
    if (out.full()) return;
    std::optional<std::string> name = ReadString(out, *item, what);
    if (!name) continue;
    if (std::string_view problem = InterfaceProblem(*name); !problem.empty()) {
      out.Error(*item, StrCat(what, ": ", Quote(*name), " ", problem));
    } else if (std::find(names.begin(), names.end(), *name) != names.end()) {
      out.Error(*item, StrCat(what, ": ", Quote(*name), " is listed twice"));
    } else if (std::find(others.begin(), others.end(), *name) != others.end()) {
      out.Error(*item, StrCat("interface ", Quote(*name), " is both lan and wan"));
    } else if (names.size() == kMaxPatterns) {
      return out.Error(*item, StrCat(what, ": more than ", kMaxPatterns, " names, use a pattern"));
    } else {
      names.push_back(std::move(*name));
    }
  }
}

}  // namespace

Interfaces ReadInterfaces(Diagnostics& out, const YamlNode& node) {
  Interfaces in;
  ReadMap(
      out, node, "interfaces",
      {{.key = "lan",
        .read = [&](const YamlNode& value) { ReadList(out, value, "lan", in.lan, in.wan); },
        .required = true},
       {.key = "wan", .read = [&](const YamlNode& value) { ReadList(out, value, "wan", in.wan, in.lan); }}});
  return in;
}

}  // namespace tpx::policy
