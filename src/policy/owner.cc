// SPDX-License-Identifier: Apache-2.0
#include "policy/owner.h"

#include <algorithm>
#include <map>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>

#include "policy/rule_sets.h"
#include "tpx/base/status.h"
#include "tpx/base/strings.h"

namespace tpx::policy {
namespace {

tpx_attribute_key KeyOf(tpx_attribute attribute, uint64_t value, uint32_t device = 0) {
  return {.value = value, .attribute = attribute, .device = device};
}

template <typename T>
OwnerValues ValuesOf(const Policy& policy, tpx_attribute attribute, std::vector<T> Rule::*member,
                     MatchKey key) {
  return {.attribute = attribute, .others = RulesThat(policy, [&](const Rule& rule) {
                                    return Accepts(rule, key, (rule.*member).empty(), false);
                                  })};
}

// Sweeps over the ids; the set changes only where a range begins or ends.
absl::StatusOr<OwnerValues> IdsOf(const Policy& policy, tpx_attribute attribute,
                                  std::vector<IdRange> Rule::*member, MatchKey key) {
  struct Change {
    uint64_t at;
    size_t rule;
    int by;
  };
  OwnerValues out = ValuesOf(policy, attribute, member, key);
  std::vector<Change> changes;
  for (size_t i = 0; i < policy.rules.size(); ++i) {
    for (const IdRange range : policy.rules[i].*member) {
      changes.push_back({range.first, i, 1});
      changes.push_back({uint64_t{range.last} + 1, i, -1});
    }
  }
  std::sort(changes.begin(), changes.end(), [](const Change& a, const Change& b) { return a.at < b.at; });
  std::vector<int> depth(policy.rules.size());  // ranges of a rule that hold the id: they may overlap
  tpx_bits bits = out.others;
  int open = 0;
  for (auto next = changes.begin(); next != changes.end();) {
    uint64_t id = next->at;
    for (; next != changes.end() && next->at == id; ++next) {
      depth[next->rule] += next->by;
      open += next->by;
      SetListed(bits, policy.rules[next->rule], next->rule, key, depth[next->rule] > 0);
    }
    if (open == 0) continue;
    if (out.values.size() + (next->at - id) > kMaxAttributeValues) return TooManyAttributes();
    for (; id < next->at; ++id) out.values.push_back({KeyOf(attribute, id), bits});
  }
  return out;
}

// The path of the cgroup above; empty above the root.
std::string_view Above(std::string_view path) {
  if (path == "/") return "";
  const size_t slash = path.rfind('/');
  return slash == 0 ? "/" : path.substr(0, slash);
}

// A process is in its cgroup and in all above it, and the nearest one that is named has to say it all.
OwnerValues CgroupsOf(const Policy& policy) {
  struct Named {
    uint64_t id = 0;
    std::vector<size_t> rules{};
  };
  OwnerValues out = ValuesOf(policy, TPX_ATTR_CGROUP, &Rule::cgroups, kMatchCgroup);
  std::map<std::string_view, Named> named;
  for (size_t i = 0; i < policy.rules.size(); ++i) {
    for (const CgroupMatch& cgroup : policy.rules[i].cgroups) {
      Named& entry = named[cgroup.path];
      entry.id = cgroup.id;
      entry.rules.push_back(i);
    }
  }
  for (const auto& [path, entry] : named) {
    tpx_bits bits = out.others;
    for (std::string_view at = path; !at.empty(); at = Above(at)) {
      const auto around = named.find(at);
      if (around == named.end()) continue;
      for (const size_t rule : around->second.rules) SetListed(bits, policy.rules[rule], rule, kMatchCgroup);
    }
    if (entry.id != 0) {
      out.values.push_back({KeyOf(TPX_ATTR_CGROUP, entry.id), bits});
    } else {
      out.missing.push_back(bits);
    }
  }
  return out;
}

OwnerValues ProgramsOf(const Policy& policy) {
  using Program = std::tuple<uint64_t, uint32_t, std::string_view>;  // the path only where there is no file
  OwnerValues out = ValuesOf(policy, TPX_ATTR_EXE, &Rule::programs, kMatchExe);
  std::map<Program, tpx_bits> named;
  for (size_t i = 0; i < policy.rules.size(); ++i) {
    for (const ProgramMatch& program : policy.rules[i].programs) {
      const bool missing = program.file.inode == 0;
      tpx_bits& bits = named
                           .emplace(Program(program.file.inode, program.file.device,
                                            missing ? program.path : std::string_view()),
                                    out.others)
                           .first->second;
      SetListed(bits, policy.rules[i], i, kMatchExe);
    }
  }
  for (const auto& [program, bits] : named) {
    const auto [inode, device, path] = program;
    if (inode != 0) {
      out.values.push_back({KeyOf(TPX_ATTR_EXE, inode, device), bits});
    } else {
      out.missing.push_back(bits);
    }
  }
  return out;
}

}  // namespace

absl::Status TooManyAttributes() {
  return absl::ResourceExhaustedError(
      StrCat("the rules name more than ", kMaxAttributeValues,
             " different MAC addresses, users, groups, cgroups and programs (TPX_MAX_ATTRIBUTES less "
             "TPX_MAX_DEVICES)"));
}

absl::StatusOr<std::vector<OwnerValues>> OwnerValuesOf(const Policy& policy) {
  std::vector<OwnerValues> all;
  TPX_ASSIGN_OR_RETURN(OwnerValues uids, IdsOf(policy, TPX_ATTR_UID, &Rule::uids, kMatchUid));
  TPX_ASSIGN_OR_RETURN(OwnerValues gids, IdsOf(policy, TPX_ATTR_GID, &Rule::gids, kMatchGid));
  all.push_back(std::move(uids));
  all.push_back(std::move(gids));
  all.push_back(CgroupsOf(policy));
  all.push_back(ProgramsOf(policy));
  return all;
}

absl::Status CompileOwner(const Policy& policy, Classes& classes, CompiledPolicy& compiled) {
  TPX_ASSIGN_OR_RETURN(const std::vector<OwnerValues> all, OwnerValuesOf(policy));
  tpx_tables& tables = *compiled.tables;
  for (const OwnerValues& of : all) {
    tables.other_class[of.attribute] = static_cast<uint16_t>(classes.Number(of.others));
    if (!of.values.empty() || !of.missing.empty()) tables.asks |= 1u << of.attribute;
    compiled.attributes.insert(compiled.attributes.end(), of.values.begin(), of.values.end());
  }
  return compiled.attributes.size() > kMaxAttributeValues ? TooManyAttributes() : absl::OkStatus();
}

}  // namespace tpx::policy
