// SPDX-License-Identifier: Apache-2.0
#include "policy/link.h"

#include <fnmatch.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <set>

#include "policy/rule_sets.h"
#include "tpx/base/strings.h"

namespace tpx::policy {
namespace {

uint64_t KeyOf(const MacAddress& mac) {
  uint64_t value = 0;
  memcpy(&value, mac.data(), mac.size());  // as BPF does
  return value;
}

bool FitsName(const Rule& rule, const std::string& name) {
  return std::any_of(rule.interfaces.begin(), rule.interfaces.end(), [&](const std::string& pattern) {
    return pattern == name || fnmatch(pattern.c_str(), name.c_str(), 0) == 0;
  });
}

tpx_bits RulesOfName(const Policy& policy, const std::string& name) {
  return RulesThat(policy, [&](const Rule& rule) {
    return Accepts(rule, kMatchInterface, rule.interfaces.empty(), FitsName(rule, name));
  });
}

tpx_bits RulesOfVlan(const Policy& policy, uint16_t vlan) {
  return RulesThat(policy, [&](const Rule& rule) {
    const bool listed = std::find(rule.vlans.begin(), rule.vlans.end(), vlan) != rule.vlans.end();
    return Accepts(rule, kMatchVlan, rule.vlans.empty(), listed);
  });
}

tpx_bits RulesOf(const Policy& policy, const DeviceName& device) {
  tpx_bits bits = RulesOfName(policy, device.name);
  const tpx_bits of_vlan = RulesOfVlan(policy, device.vlan);
  for (size_t i = 0; i < policy.rules.size(); ++i) {
    if (!HasBit(of_vlan, i)) ClearBit(bits, i);
  }
  return bits;
}

bool AsksForDevice(const Rule& rule) { return !rule.interfaces.empty() || !rule.vlans.empty(); }

class LinkCompiler {
 public:
  LinkCompiler(const Policy& policy, Classes& classes, CompiledPolicy& compiled)
      : policy_(policy), classes_(classes), compiled_(compiled), tables_(*compiled.tables) {}

  absl::Status Run() {
    tables_.linkless_class =
        Number([](const Rule& rule) { return !rule.asks_for_link() && !rule.asks_for_owner(); });
    Ask(TPX_ATTR_DEVICE, AsksForDevice);
    Ask(TPX_ATTR_MAC, [](const Rule& rule) { return !rule.macs.empty(); });
    Ask(TPX_ATTR_DSCP, [](const Rule& rule) { return !rule.dscps.empty(); });
    Ask(TPX_ATTR_MARK, [](const Rule& rule) { return !rule.marks.empty(); });
    tables_.other_class[TPX_ATTR_DEVICE] = Number([](const Rule& rule) {
      return Accepts(rule, kMatchInterface, rule.interfaces.empty(), false) &&
             Accepts(rule, kMatchVlan, rule.vlans.empty(), false);
    });
    CompileMacs();
    CompileDscps();
    return CompileMarks();
  }

 private:
  template <typename Test>
  uint16_t Number(Test accepts) {
    return static_cast<uint16_t>(classes_.Number(RulesThat(policy_, accepts)));
  }

  template <typename Test>
  void Ask(tpx_attribute attribute, Test asks) {
    if (std::any_of(policy_.rules.begin(), policy_.rules.end(), asks)) tables_.asks |= 1u << attribute;
  }

  void CompileMacs() {
    const tpx_bits others = RulesThat(
        policy_, [](const Rule& rule) { return Accepts(rule, kMatchMac, rule.macs.empty(), false); });
    tables_.other_class[TPX_ATTR_MAC] = static_cast<uint16_t>(classes_.Number(others));
    std::map<uint64_t, tpx_bits> rules;
    for (size_t i = 0; i < policy_.rules.size(); ++i) {
      const Rule& rule = policy_.rules[i];
      for (const MacAddress& mac : rule.macs) {
        tpx_bits& bits = rules.emplace(KeyOf(mac), others).first->second;
        SetListed(bits, rule, i, kMatchMac);
      }
    }
    for (const auto& [mac, bits] : rules)
      compiled_.attributes.push_back({{.value = mac, .attribute = TPX_ATTR_MAC, .device = 0}, bits});
  }

  void CompileDscps() {
    for (size_t dscp = 0; dscp < std::size(tables_.dscp_class); ++dscp) {
      tables_.dscp_class[dscp] = Number([dscp](const Rule& rule) {
        return rule.dscps.empty() ||
               std::find(rule.dscps.begin(), rule.dscps.end(), dscp) != rule.dscps.end();
      });
    }
  }

  absl::Status CompileMarks() {
    std::vector<MarkMatch> marks;
    for (const Rule& rule : policy_.rules) {
      for (const MarkMatch& mark : rule.marks) {
        if (std::find(marks.begin(), marks.end(), mark) == marks.end()) marks.push_back(mark);
      }
    }
    if (marks.size() > TPX_MAX_MARKS) {
      return absl::ResourceExhaustedError(StrCat("the rules name ", marks.size(),
                                                 " different marks, more than TPX_MAX_MARKS (", TPX_MAX_MARKS,
                                                 ")"));
    }
    for (size_t i = 0; i < marks.size(); ++i) tables_.marks[i] = {marks[i].value, marks[i].mask};
    for (size_t fits = 0; fits < std::size(tables_.mark_class); ++fits) {
      tables_.mark_class[fits] = Number([&](const Rule& rule) {
        const bool listed = std::any_of(rule.marks.begin(), rule.marks.end(), [&](const MarkMatch& mark) {
          return (fits >> (std::find(marks.begin(), marks.end(), mark) - marks.begin()) & 1) != 0;
        });
        return Accepts(rule, kMatchMark, rule.marks.empty(), listed);
      });
    }
    return absl::OkStatus();
  }

  const Policy& policy_;
  Classes& classes_;
  CompiledPolicy& compiled_;
  tpx_tables& tables_;
};

}  // namespace

absl::Status CompileLink(const Policy& policy, Classes& classes, CompiledPolicy& compiled) {
  return LinkCompiler(policy, classes, compiled).Run();
}

std::vector<AttributeEntry> DeviceEntries(const Policy& policy, const std::vector<DeviceName>& devices) {
  std::vector<AttributeEntry> entries;
  if (std::none_of(policy.rules.begin(), policy.rules.end(), AsksForDevice)) return entries;
  for (const DeviceName& device : devices) {
    entries.push_back(
        {{.value = device.ifindex, .attribute = TPX_ATTR_DEVICE, .device = 0}, RulesOf(policy, device)});
  }
  return entries;
}

std::vector<tpx_bits> TellingDevices(const Policy& policy) {
  std::vector<tpx_bits> sets = {RulesOfName(policy, "\1"), RulesOfVlan(policy, 0)};
  std::set<uint16_t> vlans;
  for (const Rule& rule : policy.rules) {
    vlans.insert(rule.vlans.begin(), rule.vlans.end());
    for (const std::string& pattern : rule.interfaces) {
      std::string longer;
      for (char c : pattern) longer += c == '*' ? "\1\1" : std::string(1, c);
      sets.push_back(RulesOfName(policy, pattern));
      sets.push_back(RulesOfName(policy, longer));
    }
  }
  for (const uint16_t vlan : vlans) sets.push_back(RulesOfVlan(policy, vlan));
  return sets;
}

}  // namespace tpx::policy
