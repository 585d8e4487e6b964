// SPDX-License-Identifier: Apache-2.0
#include "absl/strings/ascii.h"
#include "policy/sections.h"
#include "tpx/policy/prefix_list.h"

namespace tpx::policy {
namespace {

using Kind = YamlNode::Kind;

void TooMany(Diagnostics& out, const YamlNode& at, std::string_view name) {
  out.Error(at, StrCat("set ", Quote(name), " has more than ", TPX_MAX_PREFIXES, " prefixes"));
}

std::vector<Prefix> ReadInline(Diagnostics& out, const YamlNode& node, std::string_view name) {
  std::vector<Prefix> prefixes;
  if (node.children.size() > TPX_MAX_PREFIXES) TooMany(out, node, name);
  for (const YamlNode* item : node.children) {
    if (out.full()) break;
    std::optional<std::string> text = ReadString(out, *item, StrCat("prefix of set ", Quote(name)));
    if (!text) continue;
    absl::StatusOr<Prefix> prefix = Prefix::Parse(*text);
    if (prefix.ok()) {
      prefixes.push_back(*prefix);
    } else {
      out.Error(*item, std::string(prefix.status().message()));
    }
  }
  return prefixes;
}

std::vector<Prefix> ReadFile(Diagnostics& out, const YamlNode& node, std::string_view name,
                             const FileReader& read_file, const SetProgress& progress) {
  std::vector<Prefix> prefixes;
  std::optional<std::string> path = ReadString(out, node, "file");
  if (!path) return prefixes;
  if (path->empty()) out.Error(node, "file: the path is empty");
  if (path->empty()) return prefixes;
  absl::StatusOr<std::string> text = read_file(*path);
  if (!text.ok()) {
    out.Error(node, StrCat("cannot read the file of set ", Quote(name), ": ", text.status().message()));
    return prefixes;
  }
  if (text->size() > kMaxSetFileBytes) {
    out.Error(node,
              StrCat("the file of set ", Quote(name), " is larger than ", kMaxSetFileBytes >> 20, " MiB"));
    return prefixes;
  }
  const std::string place = out.Beside(*path);
  PrefixListReader reader{.on_error = [&](int line, int column, std::string message) {
    out.Error({place, line, column, std::move(message)});
    return !out.full();
  }};
  if (progress) reader.on_progress = [&](size_t bytes) { progress(place, bytes, text->size()); };
  return ParsePrefixList(*text, TPX_MAX_PREFIXES, reader);
}

// A name that could be an address, or a plain number, would be ambiguous in a rule.
bool IsSetName(std::string_view name) {
  return IsName(name) && (absl::ascii_isalpha(name[0]) || name[0] == '_');
}

}  // namespace

Sets ReadSets(Diagnostics& out, const YamlNode& node, const FileReader& read_file,
              const SetProgress& progress, std::vector<SetFile>& files) {
  Sets sets;
  size_t total = 0;
  if (!CheckMap(out, node, "sets")) return sets;
  for (size_t i = 0; i < node.children.size() && !out.full(); i += 2) {
    const YamlNode& key = *node.children[i];
    const YamlNode& value = *node.children[i + 1];
    if (!key.is_scalar() || key.text == "<<") continue;
    if (!IsSetName(key.text)) {
      out.Error(key, StrCat("set name ", Quote(key.text),
                            " is not a letter followed by up to 62 letters, digits, '_', '.' or '-'"));
      continue;
    }
    std::vector<Prefix> prefixes;
    std::optional<SetFile> file;
    size_t errors_before = out.errors();
    if (value.kind == Kind::kList) {
      prefixes = ReadInline(out, value, key.text);
    } else if (value.kind == Kind::kMap) {
      ReadMap(out, value, StrCat("set ", Quote(key.text)),
              {{.key = "file",
                .read =
                    [&](const YamlNode& path) {
                      prefixes = ReadFile(out, path, key.text, read_file, progress);
                      file = {.name = key.text, .path = path.text};
                    },
                .required = true}});
    } else {
      out.Error(value, StrCat("set ", Quote(key.text), ": expected a list of prefixes or {file: path}, got ",
                              KindName(value.kind)));
    }
    MergePrefixes(prefixes);
    if (file) {
      file->prefixes = prefixes.size();
      files.push_back(*std::move(file));
    }
    if (prefixes.empty() && out.errors() == errors_before) {
      out.Warn(key.line, key.column, StrCat("set ", Quote(key.text), " is empty: it matches nothing"));
    }
    total += prefixes.size();
    if (total > kMaxPrefixesTotal) {
      out.Error(key, StrCat("the sets up to this one have more than ", kMaxPrefixesTotal, " prefixes"));
      break;
    }
    sets.emplace(key.text, std::move(prefixes));
  }
  return sets;
}

}  // namespace tpx::policy
