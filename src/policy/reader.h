// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "policy/suggest.h"
#include "policy/yaml_tree.h"
#include "tpx/base/strings.h"
#include "tpx/policy/parse.h"

namespace tpx::policy {

// Collects what is wrong with one configuration, up to kMaxErrors of each kind.
class Diagnostics {
 public:
  Diagnostics(std::string_view file, ParseResult& out) : file_(file), out_(out) {}

  void Error(const YamlNode& at, std::string message) {
    Error({file_, at.line, at.column, std::move(message)});
  }
  void Error(Diagnostic diagnostic) { Add(out_.errors, std::move(diagnostic)); }
  void Warn(int line, int column, std::string message) {
    Add(out_.warnings, {file_, line, column, std::move(message)});
  }
  // The name that a file has in messages which the configuration names by `path`.
  std::string Beside(const std::string& path) const {
    return path.starts_with('/') ? path : file_.substr(0, file_.rfind('/') + 1) + path;
  }
  size_t errors() const { return out_.errors.size(); }
  bool full() const { return errors() >= kMaxErrors; }

 private:
  static void Add(std::vector<Diagnostic>& list, Diagnostic diagnostic) {
    if (list.size() < kMaxErrors) list.push_back(std::move(diagnostic));
  }

  std::string file_;
  ParseResult& out_;
};

// The readers below report an error and return nothing when the value is not as
// expected. `what` names the value in messages.

struct Field {
  std::string_view key;
  std::function<void(const YamlNode& value)> read;
  bool required = false;
};

// Calls the reader of each key that is present, in the order of `fields`. Unknown, repeated
// and missing keys are errors.
void ReadMap(Diagnostics& out, const YamlNode& node, std::string_view what, const std::vector<Field>& fields);

// For a map whose keys are names of the user's choice; false when it is no map.
bool CheckMap(Diagnostics& out, const YamlNode& node, std::string_view what);

// The items of a list, or the value itself when it is a scalar. Empty lists are errors.
std::vector<const YamlNode*> ReadOneOrMany(Diagnostics& out, const YamlNode& node, std::string_view what);

std::optional<std::string> ReadString(Diagnostics& out, const YamlNode& node, std::string_view what);

// Decimal or 0x hexadecimal.
std::optional<uint32_t> ReadUint(Diagnostics& out, const YamlNode& node, std::string_view what, uint32_t min,
                                 uint32_t max);

// "500ms", "10s", "5m", "1h"; the result is in milliseconds.
std::optional<uint32_t> ReadDuration(Diagnostics& out, const YamlNode& node, std::string_view what,
                                     uint32_t min_ms, uint32_t max_ms);
std::string FormatDuration(uint32_t ms);

// Fields whose values keep what they are where the file is wrong.
Field UintField(Diagnostics& out, std::string_view key, uint32_t& value, uint32_t min, uint32_t max);
// A duration of whole seconds, from 1 s on.
Field SecondsField(Diagnostics& out, std::string_view key, uint32_t& seconds, uint32_t max);

// Decimal without leading zeros.
std::optional<uint16_t> ParsePort(std::string_view text);

// Letters, digits, '_', '.' and '-', at most 63 bytes.
bool IsName(std::string_view text);

template <typename T>
struct Choice {
  std::string_view name;
  T value;
};

template <typename T>
std::optional<T> ReadChoice(Diagnostics& out, const YamlNode& node, std::string_view what,
                            std::span<const Choice<T>> choices) {
  std::optional<std::string> text = ReadString(out, node, what);
  if (!text) return std::nullopt;
  std::vector<std::string_view> names;
  for (const Choice<T>& choice : choices) {
    if (choice.name == *text) return choice.value;
    names.push_back(choice.name);
  }
  out.Error(node, StrCat("unknown ", what, " ", Quote(*text), Suggestion(*text, names)));
  return std::nullopt;
}

}  // namespace tpx::policy
