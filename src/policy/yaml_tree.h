// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tpx::policy {

struct YamlError {
  int line = 1;
  int column = 1;
  std::string message;
};

// A value of a document, with its place. What an alias stands for is shared,
// not copied, so the nodes form a graph without cycles.
struct YamlNode {
  enum class Kind { kNull, kBool, kInt, kFloat, kString, kList, kMap };
  Kind kind = Kind::kNull;
  int line = 1;
  int column = 1;
  std::string text;                       // of a scalar
  std::vector<const YamlNode*> children;  // of a map: key, value, key, value...
  size_t size = 1;                        // nodes below and this one, aliases expanded
  bool is_scalar() const { return kind != Kind::kList && kind != Kind::kMap; }
};

// "a string", "a list"...: for messages.
std::string_view KindName(YamlNode::Kind kind);

inline constexpr int kMaxYamlDepth = 32;
inline constexpr size_t kMaxYamlNodes = 2'000'000;  // aliases expanded

// One YAML document, read strictly: UTF-8, a single document, no tags, bounded in
// depth and in size after expansion. Scalars have the types of YAML 1.2's core
// schema. Owns its nodes.
class YamlTree {
 public:
  // Returns the first error; root() is valid when there is none.
  std::optional<YamlError> Load(std::string_view text);
  const YamlNode& root() const { return *root_; }

 private:
  class Builder;
  std::deque<YamlNode> nodes_;
  const YamlNode* root_ = nullptr;
};

}  // namespace tpx::policy
