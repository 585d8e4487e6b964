// SPDX-License-Identifier: Apache-2.0
#include <netinet/in.h>

#include <algorithm>
#include <unordered_map>

#include "policy/match.h"
#include "policy/sections.h"

namespace tpx::policy {
namespace {

using Kind = YamlNode::Kind;

constexpr std::string_view kDefaultName = "default";
constexpr std::string_view kDefaultOtherName = "default-other";
constexpr Choice<tpx_action> kActions[] = {{"proxy", TPX_ACTION_PROXY},
                                           {"bypass", TPX_ACTION_BYPASS},
                                           {"drop", TPX_ACTION_DROP},
                                           {"reject", TPX_ACTION_REJECT}};
constexpr Choice<tpx_fail_mode> kFailModes[] = {
    {"open", TPX_FAIL_OPEN}, {"closed", TPX_FAIL_CLOSED}, {"reset", TPX_FAIL_RESET}};
constexpr Choice<tpx_source_mode> kSourceModes[] = {{"masquerade", TPX_SOURCE_MASQUERADE},
                                                    {"preserve", TPX_SOURCE_PRESERVE}};

bool ReadAction(Diagnostics& out, const YamlNode& node, std::string_view what, tpx_action& action) {
  bool redirect_to =
      node.kind == Kind::kMap && node.children.size() == 2 && node.children[0]->text == "redirect";
  if (redirect_to || (node.kind == Kind::kString && node.text == "redirect")) {
    out.Error(node, StrCat(what, ": redirect is not available in this version"));
    return false;
  }
  std::optional<tpx_action> choice = ReadChoice<tpx_action>(out, node, what, kActions);
  action = choice.value_or(action);
  return choice.has_value();
}

bool IsTcp(uint8_t protocol) { return protocol == IPPROTO_TCP; }
bool HasPorts(uint8_t protocol) { return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP; }

class RulesReader {
 public:
  RulesReader(Diagnostics& out, const Sets& sets, const RuleDefaults& defaults)
      : out_(out), sets_(sets), defaults_(defaults) {}

  std::vector<Rule> Read(const YamlNode& list) {
    for (const YamlNode* item : list.children) {
      if (out_.full()) break;
      ReadRule(*item);
    }
    return std::move(rules_);
  }

 private:
  void ReadRule(const YamlNode& node) {
    Rule rule{.fail_mode = defaults_.fail_mode,
              .source = defaults_.source,
              .line = node.line,
              .column = node.column};
    MatchNodes match;
    const YamlNode *fail_mode = nullptr, *source = nullptr;
    bool has_action = false;
    size_t errors_before = out_.errors();
    ReadMap(
        out_, node, "rule",
        {{.key = "name", .read = [&](const YamlNode& value) { ReadName(value, rule); }, .required = true},
         {.key = "match",
          .read = [&](const YamlNode& value) { match = ReadMatch(out_, value, sets_, rule); }},
         {.key = "action",
          .read = [&](const YamlNode& value) { has_action = ReadAction(out_, value, "action", rule.action); },
          .required = true},
         {.key = "on_proxy_down",
          .read =
              [&](const YamlNode& value) {
                fail_mode = &value;
                ReadFailMode(out_, value, rule.fail_mode);
              }},
         {.key = "source", .read = [&](const YamlNode& value) {
            source = &value;
            ReadSourceMode(out_, value, rule.source);
          }}});
    if (has_action) {
      CheckProtocols(rule, match);
      if (rule.action != TPX_ACTION_PROXY) {
        if (fail_mode != nullptr)
          out_.Error(*fail_mode, "on_proxy_down concerns only rules whose action is proxy");
        if (source != nullptr) out_.Error(*source, "source concerns only rules whose action is proxy");
        rule.fail_mode = TPX_FAIL_OPEN;
        rule.source = TPX_SOURCE_MASQUERADE;
      }
    }
    prefixes_ += rule.src.size() + rule.dst.size();
    if (prefixes_ > kMaxPrefixesTotal && out_.errors() == errors_before) {
      out_.Error(node, StrCat("the rules up to this one have more than ", kMaxPrefixesTotal,
                              " prefixes, each set counted once for each rule that names it"));
    }
    // Errors make the whole result void, so the prefixes need not be kept.
    if (out_.errors() == 0) rules_.push_back(std::move(rule));
  }

  void ReadName(const YamlNode& node, Rule& rule) {
    std::optional<std::string> name = ReadString(out_, node, "name");
    if (!name) return;
    if (!IsName(*name)) {
      out_.Error(node,
                 StrCat("rule name ", Quote(*name), " is not 1 to 63 letters, digits, '_', '.' or '-'"));
    } else if (*name == kDefaultName || *name == kDefaultOtherName) {
      out_.Error(node, StrCat("rule name ", Quote(*name), " is reserved for what the key 'default' says"));
    } else if (auto [first, fresh] = lines_.emplace(*name, node.line); !fresh) {
      out_.Error(node, StrCat("rule name ", Quote(*name), " is taken by the rule in line ", first->second));
    }
    rule.name = std::move(*name);
  }

  // Fills in the protocols that the action and the ports imply.
  void CheckProtocols(Rule& rule, const MatchNodes& match) {
    std::vector<uint8_t>& protocols = rule.protocols;
    const bool proxy = rule.action == TPX_ACTION_PROXY;
    if (match.proto == nullptr) {
      if (proxy) {
        protocols = {IPPROTO_TCP};
      } else if (match.ports != nullptr) {
        protocols = {IPPROTO_TCP, IPPROTO_UDP};
      }
    } else if (proxy && !std::all_of(protocols.begin(), protocols.end(), IsTcp)) {
      out_.Error(*match.proto, "only TCP can be proxied by this version");
    } else if (match.ports != nullptr && !std::all_of(protocols.begin(), protocols.end(), HasPorts)) {
      out_.Error(*match.ports, "ports can be matched only where proto is tcp, udp or both");
    }
  }

  Diagnostics& out_;
  const Sets& sets_;
  const RuleDefaults& defaults_;
  std::vector<Rule> rules_;
  std::unordered_map<std::string, int> lines_;
  size_t prefixes_ = 0;
};

}  // namespace

void ReadFailMode(Diagnostics& out, const YamlNode& node, tpx_fail_mode& mode) {
  mode = ReadChoice<tpx_fail_mode>(out, node, "on_proxy_down", kFailModes).value_or(mode);
}

void ReadSourceMode(Diagnostics& out, const YamlNode& node, tpx_source_mode& source) {
  source = ReadChoice<tpx_source_mode>(out, node, "source", kSourceModes).value_or(source);
}

void ReadDefaultAction(Diagnostics& out, const YamlNode& node, tpx_action& action) {
  ReadAction(out, node, "default", action);
}

std::vector<Rule> ReadRules(Diagnostics& out, const YamlNode& node, const Sets& sets,
                            const RuleDefaults& defaults) {
  if (node.kind != Kind::kList) {
    out.Error(node, StrCat("rules: expected a list, got ", KindName(node.kind)));
    return {};
  }
  if (node.children.size() > kMaxFileRules) {
    const YamlNode& first_over = *node.children[kMaxFileRules];
    out.Error(first_over, StrCat("rules: more than ", kMaxFileRules, " rules"));
    return {};
  }
  return RulesReader(out, sets, defaults).Read(node);
}

void AppendDefault(std::vector<Rule>& rules, tpx_action action, const RuleDefaults& defaults) {
  if (action == TPX_ACTION_PROXY) {
    rules.push_back({.name = std::string(kDefaultName),
                     .protocols = {IPPROTO_TCP},
                     .action = action,
                     .fail_mode = defaults.fail_mode,
                     .source = defaults.source});
    rules.push_back({.name = std::string(kDefaultOtherName), .action = TPX_ACTION_BYPASS});
  } else {
    rules.push_back({.name = std::string(kDefaultName), .action = action});
  }
}

}  // namespace tpx::policy
