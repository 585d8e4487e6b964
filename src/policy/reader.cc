// SPDX-License-Identifier: Apache-2.0
#include "policy/reader.h"

#include <algorithm>
#include <charconv>
#include <unordered_set>

namespace tpx::policy {
namespace {

using Kind = YamlNode::Kind;

struct Unit {
  std::string_view suffix;
  uint64_t ms;
};
// "ms" before "s": the suffixes are tried in order.
constexpr Unit kUnits[] = {{"ms", 1}, {"s", 1000}, {"m", 60'000}, {"h", 3'600'000}};

void WrongKind(Diagnostics& out, const YamlNode& node, std::string_view what, std::string_view expected) {
  out.Error(node, StrCat(what, ": expected ", expected, ", got ", KindName(node.kind)));
}

// Nothing for a number that has leading zeros (octal to some, decimal to others),
// a sign, or more than 64 bits.
std::optional<uint64_t> ParseUint(std::string_view text) {
  int base = 10;
  if (text.starts_with("0x")) {
    text.remove_prefix(2);
    base = 16;
  } else if (text.size() > 1 && text[0] == '0') {
    return std::nullopt;
  }
  uint64_t value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

}  // namespace

std::string Diagnostic::ToString() const {
  if (line == 0) return StrCat(file, ": ", message);
  return StrCat(file, ":", line, ":", column, ": ", message);
}

bool CheckMap(Diagnostics& out, const YamlNode& node, std::string_view what) {
  if (node.kind != Kind::kMap) {
    WrongKind(out, node, what, "a mapping");
    return false;
  }
  std::unordered_set<std::string_view> seen;
  for (size_t i = 0; i < node.children.size() && !out.full(); i += 2) {
    const YamlNode& key = *node.children[i];
    if (!key.is_scalar()) {
      WrongKind(out, key, what, "a string as key");
    } else if (key.text == "<<") {
      out.Error(key, "merge keys are not supported");
    } else if (!seen.insert(key.text).second) {
      out.Error(key, StrCat("key ", Quote(key.text), " appears twice"));
    }
  }
  return true;
}

void ReadMap(Diagnostics& out, const YamlNode& node, std::string_view what,
             const std::vector<Field>& fields) {
  if (!CheckMap(out, node, what)) return;
  std::vector<std::string_view> known;
  known.reserve(fields.size());
  for (const Field& field : fields) known.push_back(field.key);
  std::vector<const YamlNode*> values(fields.size());
  bool misspelt = false;  // a key that is missing may be there under another name
  for (size_t i = 0; i < node.children.size() && !out.full(); i += 2) {
    const YamlNode& key = *node.children[i];
    if (!key.is_scalar() || key.text == "<<") continue;
    auto field = std::find(known.begin(), known.end(), key.text);
    if (field == known.end()) {
      misspelt = true;
      out.Error(key, StrCat("unknown key ", Quote(key.text), " in ", what, Suggestion(key.text, known)));
    } else if (const YamlNode*& value = values[static_cast<size_t>(field - known.begin())];
               value == nullptr) {
      value = node.children[i + 1];
    }
  }
  for (size_t i = 0; i < fields.size(); ++i) {
    if (values[i] != nullptr) {
      fields[i].read(*values[i]);
    } else if (fields[i].required && !misspelt) {
      out.Error(node, StrCat("key '", fields[i].key, "' is missing in ", what));
    }
  }
}

std::vector<const YamlNode*> ReadOneOrMany(Diagnostics& out, const YamlNode& node, std::string_view what) {
  if (node.kind == Kind::kMap || node.kind == Kind::kNull) {
    WrongKind(out, node, what, "a value or a list");
    return {};
  }
  if (node.is_scalar()) return {&node};
  if (node.children.empty()) out.Error(node, StrCat(what, ": the list is empty, leave the key out instead"));
  return node.children;
}

std::optional<std::string> ReadString(Diagnostics& out, const YamlNode& node, std::string_view what) {
  if (node.kind == Kind::kString) return node.text;
  bool quotable = node.is_scalar() && node.kind != Kind::kNull;
  WrongKind(out, node, what, quotable ? "a string (put it in quotes)" : "a string");
  return std::nullopt;
}

std::optional<uint32_t> ReadUint(Diagnostics& out, const YamlNode& node, std::string_view what, uint32_t min,
                                 uint32_t max) {
  if (node.kind != Kind::kInt) {
    WrongKind(out, node, what, "an integer");
    return std::nullopt;
  }
  std::optional<uint64_t> value = ParseUint(node.text);
  if (!value || *value < min || *value > max) {
    out.Error(node,
              StrCat(what, ": expected an integer from ", min, " to ", max, ", got ", Quote(node.text)));
    return std::nullopt;
  }
  return static_cast<uint32_t>(*value);
}

std::string FormatDuration(uint32_t ms) {
  for (const Unit& unit : {kUnits[3], kUnits[2], kUnits[1]}) {
    if (ms >= unit.ms && ms % unit.ms == 0) return StrCat(ms / unit.ms, unit.suffix);
  }
  return StrCat(ms, "ms");
}

std::optional<uint32_t> ReadDuration(Diagnostics& out, const YamlNode& node, std::string_view what,
                                     uint32_t min_ms, uint32_t max_ms) {
  constexpr std::string_view kExpected = "a duration such as 500ms, 10s, 5m or 1h";
  if (node.kind != Kind::kString) {
    WrongKind(out, node, what, kExpected);
    return std::nullopt;
  }
  std::string_view text = node.text;
  const Unit* unit = std::find_if(std::begin(kUnits), std::end(kUnits),
                                  [&](const Unit& u) { return text.ends_with(u.suffix); });
  std::optional<uint64_t> count;
  if (unit != std::end(kUnits)) {
    text.remove_suffix(unit->suffix.size());
    if (!text.starts_with("0x")) count = ParseUint(text);
  }
  if (!count) {
    out.Error(node, StrCat(what, ": expected ", kExpected, ", got ", Quote(node.text)));
    return std::nullopt;
  }
  // Divided rather than multiplied: the product may not fit.
  if (*count > max_ms / unit->ms || *count * unit->ms < min_ms) {
    out.Error(node, StrCat(what, ": expected ", FormatDuration(min_ms), " to ", FormatDuration(max_ms),
                           ", got ", Quote(node.text)));
    return std::nullopt;
  }
  return static_cast<uint32_t>(*count * unit->ms);
}

Field UintField(Diagnostics& out, std::string_view key, uint32_t& value, uint32_t min, uint32_t max) {
  return {.key = key, .read = [&out, key, &value, min, max](const YamlNode& node) {
            value = ReadUint(out, node, key, min, max).value_or(value);
          }};
}

Field SecondsField(Diagnostics& out, std::string_view key, uint32_t& seconds, uint32_t max) {
  constexpr uint32_t kSecond = 1'000;
  return {.key = key, .read = [&out, key, &seconds, max](const YamlNode& node) {
            std::optional<uint32_t> ms = ReadDuration(out, node, key, kSecond, max * kSecond);
            if (!ms) return;
            if (*ms % kSecond != 0)
              out.Error(node, StrCat(key, ": expected whole seconds, got ", Quote(node.text)));
            seconds = *ms / kSecond;
          }};
}

std::optional<uint16_t> ParsePort(std::string_view text) {
  uint16_t port = 0;
  bool zeros = text.size() > 1 && text[0] == '0';
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
  if (zeros || error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return port;
}

bool IsName(std::string_view text) {
  return !text.empty() && text.size() <= 63 && std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '.' || c == '-';
  });
}

}  // namespace tpx::policy
