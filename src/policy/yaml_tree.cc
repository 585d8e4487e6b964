// SPDX-License-Identifier: Apache-2.0
#include "policy/yaml_tree.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <cctype>
#include <sstream>
#include <unordered_map>
#include <utility>

#include "tpx/base/strings.h"

namespace tpx::policy {
namespace {

using Kind = YamlNode::Kind;

bool IsDigits(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

bool IsInt(std::string_view text) {
  if (text.starts_with("0x")) {
    return text.size() > 2 &&
           std::all_of(text.begin() + 2, text.end(), [](unsigned char c) { return std::isxdigit(c) != 0; });
  }
  if (text.starts_with("0o")) {
    return text.size() > 2 &&
           std::all_of(text.begin() + 2, text.end(), [](char c) { return c >= '0' && c <= '7'; });
  }
  if (text.starts_with('-') || text.starts_with('+')) text.remove_prefix(1);
  return IsDigits(text);
}

bool IsFloat(std::string_view text) {
  if (text == ".nan" || text == ".NaN" || text == ".NAN") return true;
  if (text.starts_with('-') || text.starts_with('+')) text.remove_prefix(1);
  if (text == ".inf" || text == ".Inf" || text == ".INF") return true;
  size_t exponent = text.find_first_of("eE");
  if (exponent != text.npos) {
    std::string_view power = text.substr(exponent + 1);
    if (power.starts_with('-') || power.starts_with('+')) power.remove_prefix(1);
    if (!IsDigits(power)) return false;
    text = text.substr(0, exponent);
  }
  size_t dot = text.find('.');
  if (dot == text.npos) return IsDigits(text);
  std::string_view whole = text.substr(0, dot), fraction = text.substr(dot + 1);
  return (whole.empty() ? IsDigits(fraction) : IsDigits(whole)) && (fraction.empty() || IsDigits(fraction));
}

// YAML 1.2, section 10.3.2.
Kind PlainKind(std::string_view text) {
  if (text.empty() || text == "~" || text == "null" || text == "Null" || text == "NULL") return Kind::kNull;
  for (std::string_view word : {"true", "True", "TRUE", "false", "False", "FALSE"}) {
    if (text == word) return Kind::kBool;
  }
  if (IsInt(text)) return Kind::kInt;
  return IsFloat(text) ? Kind::kFloat : Kind::kString;
}

// Length of the UTF-8 sequence at the start of `text`; 0 if it is not valid.
size_t SequenceLength(std::string_view text) {
  auto byte = [&](size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  unsigned lead = byte(0);
  size_t length = lead < 0x80 ? 1 : lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  bool overlong = (lead == 0xe0 && byte(1) < 0xa0) || (lead == 0xf0 && byte(1) < 0x90);
  bool surrogate = lead == 0xed && byte(1) >= 0xa0;
  bool too_big = lead == 0xf4 && byte(1) >= 0x90;
  return overlong || surrogate || too_big ? 0 : length;
}

std::optional<YamlError> CheckBytes(std::string_view text) {
  int line = 1;
  size_t line_start = 0;
  for (size_t i = 0; i < text.size();) {
    size_t length = text[i] == '\0' ? 0 : SequenceLength(text.substr(i));
    if (length == 0) {
      return YamlError{line, static_cast<int>(i - line_start + 1),
                       text[i] == '\0' ? "a NUL byte in the text" : "the text is not valid UTF-8 here"};
    }
    i += length;
    if (text[i - 1] == '\n') ++line, line_start = i;
  }
  return std::nullopt;
}

}  // namespace

std::string_view KindName(Kind kind) {
  switch (kind) {
    case Kind::kNull:
      return "nothing";
    case Kind::kBool:
      return "a boolean";
    case Kind::kInt:
      return "an integer";
    case Kind::kFloat:
      return "a number with a fraction";
    case Kind::kString:
      return "a string";
    case Kind::kList:
      return "a list";
    case Kind::kMap:
      return "a mapping";
  }
  return "nothing";
}

// Builds the tree from yaml-cpp's events instead of its nodes: those expand
// and compare lazily, have no place for keys, and keep the last of two equal keys.
// After the first error the rest of the events is ignored.
class YamlTree::Builder : public YAML::EventHandler {
 public:
  explicit Builder(YamlTree& tree) : tree_(tree) {}
  std::optional<YamlError> error;

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (++documents_ > 1) Fail(mark, "a second document: the file must hold one");
  }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    YamlNode* node = Make(mark, Kind::kNull, "?", anchor);
    if (node == nullptr) return;
    // Nothing has no place of its own: the mark is that of what follows.
    if (!open_.empty() && open_.back()->kind == Kind::kMap && open_.back()->children.size() % 2 == 1) {
      node->line = open_.back()->children.back()->line;
      node->column = open_.back()->children.back()->column;
    }
    Attach(*node, mark);
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    YamlNode* node = Make(mark, tag == "?" ? PlainKind(value) : Kind::kString, tag, anchor);
    if (node == nullptr) return;
    node->text = value;
    Attach(*node, mark);
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    if (error) return;
    auto target = anchors_.find(anchor);
    if (target == anchors_.end()) return Fail(mark, "an alias of something unknown");
    bool open = std::find(open_.begin(), open_.end(), target->second) != open_.end();
    if (open) return Fail(mark, "the alias stands for something that contains it");
    Attach(*target->second, mark);
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    Open(mark, Kind::kList, tag, anchor);
  }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    Open(mark, Kind::kMap, tag, anchor);
  }
  void OnSequenceEnd() override { Close(); }
  void OnMapEnd() override { Close(); }

 private:
  void Fail(const YAML::Mark& mark, std::string message) {
    if (!error) error = {mark.line + 1, mark.column + 1, std::move(message)};
  }

  YamlNode* Make(const YAML::Mark& mark, Kind kind, const std::string& tag, YAML::anchor_t anchor) {
    if (!tag.empty() && tag != "?" && tag != "!")
      Fail(mark, StrCat("the tag ", Quote(tag), " is not supported"));
    if (error) return nullptr;
    YamlNode& node = tree_.nodes_.emplace_back();
    node.kind = kind;
    node.line = mark.line + 1;
    node.column = mark.column + 1;
    if (anchor != YAML::NullAnchor) anchors_[anchor] = &node;
    return &node;
  }

  void Open(const YAML::Mark& mark, Kind kind, const std::string& tag, YAML::anchor_t anchor) {
    if (open_.size() >= kMaxYamlDepth) Fail(mark, StrCat("nested deeper than ", kMaxYamlDepth, " levels"));
    if (YamlNode* node = Make(mark, kind, tag, anchor)) {
      open_.push_back(node);
      ++pending_;
    }
  }

  void Close() {
    if (error) return;
    YamlNode& node = *open_.back();
    open_.pop_back();
    pending_ -= node.size;
    Attach(node, {});
  }

  // pending_ is the size of the document so far: every open node and all that
  // is attached below them.
  void Attach(const YamlNode& node, const YAML::Mark& mark) {
    pending_ += node.size;
    if (pending_ > kMaxYamlNodes) {
      return Fail(mark, StrCat("the document has more than ", kMaxYamlNodes, " values, aliases expanded"));
    }
    if (open_.empty()) {
      tree_.root_ = &node;
      return;
    }
    open_.back()->children.push_back(&node);
    open_.back()->size += node.size;
  }

  YamlTree& tree_;
  std::unordered_map<YAML::anchor_t, YamlNode*> anchors_;
  std::vector<YamlNode*> open_;
  size_t pending_ = 0;
  int documents_ = 0;
};

std::optional<YamlError> YamlTree::Load(std::string_view text) {
  if (std::optional<YamlError> bad = CheckBytes(text)) return bad;
  Builder builder(*this);
  try {
    std::istringstream stream{std::string(text)};
    YAML::Parser parser(stream);
    while (!builder.error && parser.HandleNextDocument(builder)) continue;
  } catch (const YAML::Exception& e) {
    if (builder.error) return builder.error;
    bool placed = !e.mark.is_null();
    std::string message = StrCat("not YAML: ", e.msg);
    // Single bytes of the text are quoted in it as they are.
    std::replace_if(
        message.begin(), message.end(), [](char c) { return c < ' ' || c > '~'; }, '?');
    return YamlError{placed ? e.mark.line + 1 : 1, placed ? e.mark.column + 1 : 1, std::move(message)};
  }
  if (!builder.error && root_ == nullptr) return YamlError{1, 1, "the file is empty"};
  return builder.error;
}

}  // namespace tpx::policy
