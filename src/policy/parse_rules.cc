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
constexpr Choice<tpx_fail_mode> kFailModes[] = {
    {"open", TPX_FAIL_OPEN}, {"closed", TPX_FAIL_CLOSED}, {"reset", TPX_FAIL_RESET}};
constexpr Choice<tpx_source_mode> kSourceModes[] = {{"masquerade", TPX_SOURCE_MASQUERADE},
                                                    {"preserve", TPX_SOURCE_PRESERVE}};
constexpr Choice<tpx_mapping> kMappings[] = {
    {"endpoint-independent", TPX_MAPPING_ENDPOINT_INDEPENDENT},
    {"address-and-port-dependent", TPX_MAPPING_ADDRESS_AND_PORT_DEPENDENT}};
constexpr Choice<tpx_forward> kForwards[] = {
    {"auto", TPX_FORWARD_AUTO}, {"stack", TPX_FORWARD_STACK}, {"fib", TPX_FORWARD_FIB}};
constexpr Choice<tpx_log_mode> kLogModes[] = {{"sample", TPX_LOG_SAMPLE}};

void ReadForward(Diagnostics& out, const YamlNode& node, tpx_forward& forward) {
  forward = ReadChoice<tpx_forward>(out, node, "forward", kForwards).value_or(forward);
}

bool IsTcp(uint8_t protocol) { return protocol == IPPROTO_TCP; }
bool HasPorts(uint8_t protocol) { return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP; }

// The keys of one rule that its action may forbid.
struct ProxyNodes {
  const YamlNode *fail_mode = nullptr, *source = nullptr, *mapping = nullptr, *limit = nullptr,
                 *forward = nullptr;
};

class RulesReader {
 public:
  RulesReader(Diagnostics& out, const Sets& sets, const RuleDefaults& defaults, const OwnerLookup& owners)
      : out_(out), sets_(sets), defaults_(defaults), owners_(owners) {}

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
              .mapping = defaults_.mapping,
              .line = node.line,
              .column = node.column};
    MatchNodes match;
    ProxyNodes proxy;
    bool has_action = false;
    size_t errors_before = out_.errors();
    // A key that the action may forbid; kept for the message.
    auto field = [&](std::string_view key, const YamlNode*& at, auto read, auto& value) {
      return Field{.key = key, .read = [this, &at, read, &value](const YamlNode& given) {
                     at = &given;
                     read(out_, given, value);
                   }};
    };
    ReadMap(out_, node, "rule",
            {{.key = "name", .read = [&](const YamlNode& value) { ReadName(value, rule); }, .required = true},
             {.key = "match",
              .read = [&](const YamlNode& value) { match = ReadMatch(out_, value, sets_, owners_, rule); }},
             {.key = "action",
              .read = [&](const YamlNode& value) { has_action = ReadAction(out_, value, rule); },
              .required = true},
             field("on_proxy_down", proxy.fail_mode, ReadFailMode, rule.fail_mode),
             field("source", proxy.source, ReadSourceMode, rule.source),
             field("mapping", proxy.mapping, ReadMapping, rule.mapping),
             field("limit", proxy.limit, ReadLimit, rule.limit),
             field("forward", proxy.forward, ReadForward, rule.forward),
             {.key = "log", .read = [&](const YamlNode& value) {
                rule.log = ReadChoice<tpx_log_mode>(out_, value, "log", kLogModes).value_or(rule.log);
              }}});
    if (has_action) {
      CheckProtocols(rule, match);
      CheckProxying(rule, proxy);
      if (proxy.limit != nullptr) CheckLimit(rule, *proxy.limit);
      if (proxy.forward != nullptr) {
        CheckForward(rule, *proxy.forward);
      } else if (rule.is_proxied() && !IsTcpOnly(rule) && !rule.asks_for_owner()) {
        rule.forward = TPX_FORWARD_AUTO;
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
    // Whoever says what it shall not be, says nothing of what only has no ports.
    if (match.negates_proto && (rule.is_proxied() || match.ports != nullptr)) {
      std::erase_if(protocols, [](uint8_t protocol) { return !HasPorts(protocol); });
      if (protocols.empty()) return out_.Error(*match.proto, "proto: neither tcp nor udp is left");
    }
    const bool ported = std::all_of(protocols.begin(), protocols.end(), HasPorts);
    if (match.proto == nullptr) {
      if (rule.is_proxied() || match.ports != nullptr) protocols = {IPPROTO_TCP, IPPROTO_UDP};
    } else if (rule.is_proxied() && !ported) {
      out_.Error(*match.proto, StrCat("only tcp and udp can be ",
                                      rule.action == TPX_ACTION_REDIRECT ? "redirected" : "proxied"));
    } else if (match.ports != nullptr && !ported) {
      out_.Error(*match.ports, "ports can be matched only where proto is tcp, udp or both");
    }
  }

  // Keys that say nothing about such a rule are errors, defaults for them are ignored.
  void CheckProxying(Rule& rule, const ProxyNodes& nodes) {
    const bool redirect = rule.action == TPX_ACTION_REDIRECT;
    auto refuse = [&](const YamlNode* node, std::string_view why) {
      if (node != nullptr) out_.Error(*node, std::string(why));
    };
    if (!rule.is_proxied()) {
      refuse(nodes.fail_mode, "on_proxy_down concerns only rules whose action is proxy or redirect");
      refuse(nodes.source, "source concerns only rules whose action is proxy or redirect");
      refuse(nodes.mapping, "mapping concerns only rules whose action is proxy or redirect");
      rule.fail_mode = TPX_FAIL_OPEN;
    }
    if (redirect && rule.source == TPX_SOURCE_PRESERVE) {
      refuse(nodes.source,
             "a redirected flow cannot preserve its source: the target's answers would go to the client, "
             "past the proxy");
    }
    if (!rule.is_proxied() || redirect) rule.source = TPX_SOURCE_MASQUERADE;
    const bool tcp_only = IsTcpOnly(rule);
    if (rule.is_proxied() && tcp_only)
      refuse(nodes.mapping, "mapping concerns only UDP, which proto excludes");
    if (!rule.is_proxied() || tcp_only) {
      rule.mapping = TPX_MAPPING_ENDPOINT_INDEPENDENT;
    } else if (redirect) {
      if (rule.mapping != TPX_MAPPING_ADDRESS_AND_PORT_DEPENDENT) {
        refuse(nodes.mapping, "a redirected flow has one server, its mapping is address-and-port-dependent");
      }
      rule.mapping = TPX_MAPPING_ADDRESS_AND_PORT_DEPENDENT;
    }
  }

  static bool IsTcpOnly(const Rule& rule) {
    return !rule.protocols.empty() && std::all_of(rule.protocols.begin(), rule.protocols.end(), IsTcp);
  }

  static bool ExcludesPorts(const Rule& rule) {
    return !rule.protocols.empty() && std::none_of(rule.protocols.begin(), rule.protocols.end(), HasPorts);
  }

  void CheckLimit(const Rule& rule, const YamlNode& node) {
    if (rule.action == TPX_ACTION_DROP || rule.action == TPX_ACTION_REJECT) {
      out_.Error(node, "limit concerns only rules whose action is proxy, redirect or bypass");
    } else if (ExcludesPorts(rule)) {
      out_.Error(node, "limit concerns only new flows of TCP and UDP, which proto excludes");
    }
  }

  void CheckForward(const Rule& rule, const YamlNode& node) {
    if (rule.action == TPX_ACTION_DROP || rule.action == TPX_ACTION_REJECT) {
      out_.Error(node, "forward concerns only rules whose action is proxy, redirect or bypass");
    } else if (rule.is_proxied() && IsTcpOnly(rule)) {
      out_.Error(node, "forward of what is proxied concerns only UDP, which proto excludes");
    } else if (rule.asks_for_owner()) {
      out_.Error(node,
                 "forward concerns only packets that come in, not flows of the gateway's own processes");
    } else if (ExcludesPorts(rule)) {
      out_.Error(node, "forward concerns only flows of TCP and UDP, which proto excludes");
    } else if (!rule.is_proxied() && rule.forward == TPX_FORWARD_AUTO) {
      out_.Error(node, "forward: auto concerns only rules whose action is proxy or redirect");
    }
  }

  Diagnostics& out_;
  const Sets& sets_;
  const RuleDefaults& defaults_;
  const OwnerLookup& owners_;
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

void ReadMapping(Diagnostics& out, const YamlNode& node, tpx_mapping& mapping) {
  mapping = ReadChoice<tpx_mapping>(out, node, "mapping", kMappings).value_or(mapping);
}

std::vector<Rule> ReadRules(Diagnostics& out, const YamlNode& node, const Sets& sets,
                            const RuleDefaults& defaults, const OwnerLookup& owners) {
  if (node.kind != Kind::kList) {
    out.Error(node, StrCat("rules: expected a list, got ", KindName(node.kind)));
    return {};
  }
  if (node.children.size() > kMaxFileRules) {
    const YamlNode& first_over = *node.children[kMaxFileRules];
    out.Error(first_over, StrCat("rules: more than ", kMaxFileRules, " rules"));
    return {};
  }
  return RulesReader(out, sets, defaults, owners).Read(node);
}

void AppendDefault(std::vector<Rule>& rules, tpx_action action, const RuleDefaults& defaults) {
  if (action == TPX_ACTION_PROXY) {
    rules.push_back({.name = std::string(kDefaultName),
                     .protocols = {IPPROTO_TCP, IPPROTO_UDP},
                     .action = action,
                     .fail_mode = defaults.fail_mode,
                     .source = defaults.source,
                     .mapping = defaults.mapping,
                     .forward = TPX_FORWARD_AUTO});
    rules.push_back({.name = std::string(kDefaultOtherName), .action = TPX_ACTION_BYPASS});
  } else {
    rules.push_back({.name = std::string(kDefaultName), .action = action});
  }
}

}  // namespace tpx::policy
