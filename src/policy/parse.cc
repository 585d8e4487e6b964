// SPDX-License-Identifier: Apache-2.0
#include "tpx/policy/parse.h"

#include <netinet/in.h>

#include <algorithm>
#include <utility>

#include "policy/sections.h"
#include "tpx/policy/compile.h"

namespace tpx::policy {
namespace {

// What is read before the rules, which need it wherever it is in the file.
struct Sections {
  const YamlNode* rules = nullptr;
  const YamlNode* local = nullptr;
  Sets sets;
  RuleDefaults defaults;
  tpx_action default_action = TPX_ACTION_BYPASS;
};

// What local flows have is both marks in one.
void CheckLocalMark(Diagnostics& out, const Config& config, const Sections& sections) {
  const Steering& s = config.steering;
  if (!config.local.enabled || s.steer_mark == s.own_mark) return;
  if (s.local_mark() != s.steer_mark && s.local_mark() != s.own_mark) return;
  out.Error(*sections.local,
            "local needs marks of which neither has all the bits of the other; change steering.steer_mark or "
            "steering.own_mark");
}

void ReadDocument(Diagnostics& out, const YamlNode& root, const FileReader& read_file,
                  const SetProgress& progress, Config& config, Sections& sections) {
  auto read_sets = [&](const YamlNode& value) {
    sections.sets = ReadSets(out, value, read_file, progress, config.set_files);
  };
  ReadMap(out, root, "the configuration",
          {{.key = "version",
            .read =
                [&](const YamlNode& value) {
                  bool one = value.kind == YamlNode::Kind::kInt && value.text == "1";
                  if (!one) out.Error(value, StrCat("version: expected 1, got ", Quote(value.text)));
                },
            .required = true},
           {.key = "interfaces",
            .read = [&](const YamlNode& value) { config.interfaces = ReadInterfaces(out, value); },
            .required = true},
           {.key = "local",
            .read =
                [&](const YamlNode& value) {
                  sections.local = &value;
                  config.local = ReadLocal(out, value);
                }},
           {.key = "on_proxy_down",
            .read = [&](const YamlNode& value) { ReadFailMode(out, value, sections.defaults.fail_mode); }},
           {.key = "source",
            .read = [&](const YamlNode& value) { ReadSourceMode(out, value, sections.defaults.source); }},
           {.key = "mapping",
            .read = [&](const YamlNode& value) { ReadMapping(out, value, sections.defaults.mapping); }},
           {.key = "sets", .read = read_sets},
           {.key = "rules", .read = [&](const YamlNode& value) { sections.rules = &value; }},
           {.key = "default",
            .read = [&](const YamlNode& value) { ReadDefaultAction(out, value, sections.default_action); }},
           {.key = "xdp", .read = [&](const YamlNode& value) { ReadXdp(out, value, config.xdp); }},
           {.key = "steering",
            .read = [&](const YamlNode& value) { config.steering = ReadSteering(out, value); }},
           {.key = "proxy", .read = [&](const YamlNode& value) { config.proxy = ReadProxy(out, value); }}});
  CheckLocalMark(out, config, sections);
}

// Which of the keys that only packets have, or only local flows, a rule asks for first.
std::string_view LinkKeyOf(const Rule& rule) {
  return !rule.interfaces.empty() ? "interface"
         : !rule.macs.empty()     ? "mac"
         : !rule.dscps.empty()    ? "dscp"
         : !rule.marks.empty()    ? "mark"
                                  : "vlan";
}

std::string_view OwnerKeyOf(const Rule& rule) {
  return !rule.uids.empty() ? "uid" : !rule.gids.empty() ? "gid" : !rule.cgroups.empty() ? "cgroup" : "exe";
}

// Whether the senders and the receivers that a rule lists are of different families.
bool ListsDifferentFamilies(const Rule& rule) {
  if (rule.src.empty() || rule.dst.empty() || rule.negates(kMatchSrc) || rule.negates(kMatchDst))
    return false;
  auto has = [](const std::vector<Prefix>& prefixes, bool v4) {
    return std::any_of(prefixes.begin(), prefixes.end(),
                       [v4](const Prefix& prefix) { return prefix.addr.is_v4() == v4; });
  };
  return !(has(rule.src, true) && has(rule.dst, true)) && !(has(rule.src, false) && has(rule.dst, false));
}

bool AsksForProtocolsWithoutSockets(const Rule& rule) {
  return !rule.protocols.empty() &&
         std::none_of(rule.protocols.begin(), rule.protocols.end(),
                      [](uint8_t protocol) { return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP; });
}

// Empty where there may be flows that the rule matches.
std::string WhyNever(const Rule& rule, bool local) {
  if (ListsDifferentFamilies(rule)) return "of src and dst one lists only IPv4 and the other only IPv6";
  if (!rule.asks_for_owner()) return "";
  const std::string_view key = OwnerKeyOf(rule);
  if (rule.asks_for_link()) {
    return StrCat("it asks for ", key, ", which only flows of this machine's own processes have, and for ",
                  LinkKeyOf(rule), ", which only packets that come in have");
  }
  if (AsksForProtocolsWithoutSockets(rule)) {
    return StrCat("it asks for ", key, ", which is known of TCP and UDP only, and for another protocol");
  }
  if (local) return "";
  return StrCat("it asks for ", key,
                ", which only flows of this machine's own processes have, and 'local' is off");
}

// The limits of the tables, and rules that can never match.
void CheckCompiled(Diagnostics& out, const YamlNode& at, const Config& config) {
  const Policy& policy = config.policy;
  absl::StatusOr<CompiledPolicy> compiled = Compile(policy);
  if (!compiled.ok()) {
    out.Error(at, std::string(compiled.status().message()));
    return;
  }
  for (const Rule& rule : policy.rules) {
    const std::string why = WhyNever(rule, config.local.enabled);
    if (!why.empty()) {
      out.Warn(rule.line, rule.column, StrCat("rule ", Quote(rule.name), " can never match: ", why));
    } else if (rule.asks_for_owner() && rule.limit.per_second != 0) {
      out.Warn(rule.line, rule.column,
               StrCat("rule ", Quote(rule.name), " limits nothing: it asks for ", OwnerKeyOf(rule),
                      ", and flows of this machine's own processes have no limit"));
    }
  }
  for (const Shadowed& shadowed : FindShadowed(policy, *compiled)) {
    const Rule &rule = policy.rules[shadowed.rule], &by = policy.rules[shadowed.by];
    if (rule.line == 0 || !WhyNever(rule, config.local.enabled).empty()) continue;
    out.Warn(rule.line, rule.column,
             StrCat("rule ", Quote(rule.name), " never matches: rule ", Quote(by.name), " in line ", by.line,
                    " comes first and accepts all that it accepts"));
  }
}

}  // namespace

ParseResult ParseConfig(std::string_view text, std::string_view file, const FileReader& read_file,
                        const SetProgress& progress, const OwnerLookup& owners) {
  ParseResult result;
  Diagnostics out(file, result);
  if (text.size() > kMaxConfigBytes) {
    out.Error({std::string(file), 1, 1, StrCat("the file is larger than ", kMaxConfigBytes >> 20, " MiB")});
    return result;
  }
  YamlTree tree;
  if (std::optional<YamlError> error = tree.Load(text)) {
    out.Error({std::string(file), error->line, error->column, std::move(error->message)});
    return result;
  }
  Sections sections;
  ReadDocument(out, tree.root(), read_file, progress, result.config, sections);
  std::vector<Rule>& rules = result.config.policy.rules;
  if (sections.rules != nullptr)
    rules = ReadRules(out, *sections.rules, sections.sets, sections.defaults, owners);
  AppendDefault(rules, sections.default_action, sections.defaults);
  if (result.ok()) {
    CheckCompiled(out, sections.rules != nullptr ? *sections.rules : tree.root(), result.config);
  }
  return result;
}

}  // namespace tpx::policy
