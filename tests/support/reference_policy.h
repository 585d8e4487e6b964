// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <arpa/inet.h>
#include <fnmatch.h>
#include <netinet/in.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "tpx/base/address.h"
#include "tpx/policy/compile.h"
#include "tpx/policy/config.h"

namespace tpx::policy {

// The process that a local flow belongs to.
struct TestOwner {
  uint32_t uid = 0, gid = 0;
  std::string cgroup = "/";
  std::vector<uint64_t> cgroup_ids{};  // its own, that of the one above it, and so on
  FileId program{};
};

// A flow as the rules see it.
struct TestFlow {
  IpAddr src{}, dst{};
  uint8_t protocol = IPPROTO_TCP;
  uint16_t sport = 0, dport = 0;  // host byte order; 0 where the protocol has none
  // The link.
  std::string device{};
  uint32_t ifindex = 0;
  uint16_t vlan = 0;
  MacAddress mac{};
  uint8_t dscp = 0;
  uint32_t mark = 0;
  std::optional<TestOwner> owner{};  // of a local flow, which has no link
};

namespace reference {

inline bool InAny(const std::vector<Prefix>& prefixes, const IpAddr& address) {
  return prefixes.empty() ||
         std::any_of(prefixes.begin(), prefixes.end(), [&](const Prefix& p) { return p.Contains(address); });
}

// What a list, or its negation, says of a value.
inline bool Fits(const Rule& rule, MatchKey key, bool no_list, bool listed) {
  return no_list || listed != rule.negates(key);
}

// Whether a cgroup is another, or below it.
inline bool IsWithin(const std::string& path, const std::string& other) {
  return other == "/" || path == other || path.starts_with(other + "/");
}

inline bool FitsOwner(const Rule& rule, const TestFlow& flow) {
  if (!flow.owner) return !rule.asks_for_owner();
  const TestOwner& owner = *flow.owner;
  auto fits_id = [&](MatchKey key, const std::vector<IdRange>& ids, uint32_t id) {
    return Fits(rule, key, ids.empty(), std::any_of(ids.begin(), ids.end(), [id](const IdRange& range) {
                  return id >= range.first && id <= range.last;
                }));
  };
  bool cgroup = false, program = false;
  for (const CgroupMatch& match : rule.cgroups)
    cgroup = cgroup || (match.id != 0 && IsWithin(owner.cgroup, match.path));
  for (const ProgramMatch& match : rule.programs)
    program = program || (match.file.inode != 0 && match.file == owner.program);
  return fits_id(kMatchUid, rule.uids, owner.uid) && fits_id(kMatchGid, rule.gids, owner.gid) &&
         Fits(rule, kMatchCgroup, rule.cgroups.empty(), cgroup) &&
         Fits(rule, kMatchExe, rule.programs.empty(), program);
}

inline bool FitsLink(const Rule& rule, const TestFlow& flow) {
  if (flow.owner) return !rule.asks_for_link();
  bool device = false, mark = false;
  for (const std::string& pattern : rule.interfaces)
    device = device || fnmatch(pattern.c_str(), flow.device.c_str(), 0) == 0;
  for (const MarkMatch& m : rule.marks) mark = mark || (flow.mark & m.mask) == m.value;
  return Fits(rule, kMatchInterface, rule.interfaces.empty(), device) &&
         Fits(rule, kMatchMac, rule.macs.empty(),
              std::count(rule.macs.begin(), rule.macs.end(), flow.mac) > 0) &&
         Fits(rule, kMatchDscp, rule.dscps.empty(),
              std::count(rule.dscps.begin(), rule.dscps.end(), flow.dscp) > 0) &&
         Fits(rule, kMatchMark, rule.marks.empty(), mark) &&
         Fits(rule, kMatchVlan, rule.vlans.empty(),
              std::count(rule.vlans.begin(), rule.vlans.end(), flow.vlan) > 0);
}

inline bool InAny(const std::vector<PortRange>& ranges, uint16_t port) {
  return ranges.empty() || std::any_of(ranges.begin(), ranges.end(),
                                       [&](const PortRange& r) { return port >= r.first && port <= r.last; });
}

inline bool Matches(const Rule& rule, const TestFlow& flow) {
  bool has_ports = flow.protocol == IPPROTO_TCP || flow.protocol == IPPROTO_UDP;
  if (rule.matches_nothing) return false;
  if (rule.is_proxied() && !has_ports) return false;
  if (!has_ports && !(rule.sports.empty() && rule.dports.empty())) return false;
  if (!rule.protocols.empty() &&
      std::count(rule.protocols.begin(), rule.protocols.end(), flow.protocol) == 0) {
    return false;
  }
  return Fits(rule, kMatchSrc, rule.src.empty(), InAny(rule.src, flow.src)) &&
         Fits(rule, kMatchDst, rule.dst.empty(), InAny(rule.dst, flow.dst)) &&
         InAny(rule.sports, flow.sport) && InAny(rule.dports, flow.dport) && FitsLink(rule, flow) &&
         FitsOwner(rule, flow);
}

}  // namespace reference

// What a policy means: index of the first rule that matches.
inline size_t FirstMatch(const Policy& policy, const TestFlow& flow) {
  size_t rule = 0;
  while (rule < policy.rules.size() && !reference::Matches(policy.rules[rule], flow)) ++rule;
  return rule;
}

// Evaluates the compiled tables as the kernel side does: blocks, else pages, to the
// classes of the addresses; AND of the classes' sets word by word under the AND of
// the summaries, lowest bit.
class TableInterpreter {
 public:
  explicit TableInterpreter(const CompiledPolicy& compiled)
      : tables_(*compiled.tables),
        pages_{&compiled.pages[0], &compiled.pages[1]},
        attributes_(compiled.attributes) {}

  // Index of the rule; n_rules if there is none.
  size_t Evaluate(const TestFlow& flow) const {
    std::vector<const tpx_bits*> sets = {
        Set(PrefixClass(TPX_DIM_SRC, flow.src)), Set(PrefixClass(TPX_DIM_DST, flow.dst)),
        Set((flow.owner ? tables_.local_proto_class : tables_.proto_class)[flow.protocol]),
        Set(tables_.port_class[TPX_DIM_SPORT][flow.sport]),
        Set(tables_.port_class[TPX_DIM_DPORT][flow.dport])};
    flow.owner ? AddOwner(*flow.owner, sets) : AddLink(flow, sets);
    uint64_t summary = ~uint64_t{0};
    for (const tpx_bits* set : sets) summary &= set->summary;
    for (; summary != 0; summary &= summary - 1) {
      size_t i = static_cast<size_t>(std::countr_zero(summary));
      uint64_t word = ~uint64_t{0};
      for (const tpx_bits* set : sets) word &= set->word[i];
      if (word != 0) return i * 64 + static_cast<size_t>(std::countr_zero(word));
    }
    return tables_.n_rules;
  }

 private:
  uint32_t MarkClass(uint32_t mark) const {
    size_t fits = 0;
    for (size_t i = 0; i < TPX_MAX_MARKS; ++i)
      fits |= size_t{(mark & tables_.marks[i].mask) == tables_.marks[i].value} << i;
    return tables_.mark_class[fits];
  }

  void AddLink(const TestFlow& flow, std::vector<const tpx_bits*>& sets) const {
    sets.push_back(Set(tables_.dscp_class[flow.dscp]));
    sets.push_back(Set(MarkClass(flow.mark)));
    uint64_t mac = 0;
    memcpy(&mac, flow.mac.data(), flow.mac.size());
    AddValue(TPX_ATTR_MAC, mac, 0, sets);
    AddValue(TPX_ATTR_DEVICE, flow.ifindex, 0, sets);
  }

  void AddOwner(const TestOwner& owner, std::vector<const tpx_bits*>& sets) const {
    uint64_t cgroup = 0;  // the nearest one that has an entry
    for (auto id = owner.cgroup_ids.rbegin(); id != owner.cgroup_ids.rend(); ++id) {
      if (Find(TPX_ATTR_CGROUP, *id, 0) != nullptr) cgroup = *id;
    }
    AddValue(TPX_ATTR_UID, owner.uid, 0, sets);
    AddValue(TPX_ATTR_GID, owner.gid, 0, sets);
    AddValue(TPX_ATTR_CGROUP, cgroup, 0, sets);
    AddValue(TPX_ATTR_EXE, owner.program.inode, owner.program.device, sets);
  }

  const tpx_bits* Find(tpx_attribute attribute, uint64_t value, uint32_t device) const {
    for (const AttributeEntry& entry : attributes_) {
      const tpx_attribute_key& key = entry.key;
      if (key.attribute == attribute && key.value == value && key.device == device) return &entry.rules;
    }
    return nullptr;
  }

  // What no rule asks for is not looked up.
  void AddValue(tpx_attribute attribute, uint64_t value, uint32_t device,
                std::vector<const tpx_bits*>& sets) const {
    if ((tables_.asks >> attribute & 1) == 0) return;
    const tpx_bits* found = Find(attribute, value, device);
    sets.push_back(found != nullptr ? found : Set(tables_.other_class[attribute]));
  }

  const tpx_bits* Set(uint32_t number) const { return &tables_.bits[number]; }

  uint32_t PrefixClass(size_t dimension, const IpAddr& address) const {
    const bool v4 = address.is_v4();
    const auto* bytes = reinterpret_cast<const uint8_t*>(&address.raw);
    uint16_t step = tables_.root[dimension][v4 ? 1 : 0];
    for (size_t byte = v4 ? 12 : 0; step != TPX_STEP_SEARCH && (step & TPX_STEP_BLOCK) != 0; ++byte)
      step = tables_.block[step & ~TPX_STEP_BLOCK][bytes[byte]];
    if (step != TPX_STEP_SEARCH) return step;
    return v4 ? SearchV4(dimension, ntohl(address.raw.w[3])) : SearchV6(dimension, address);
  }

  uint32_t SearchV4(size_t dimension, uint32_t address) const {
    auto word = [&pages = *pages_[dimension]](size_t at) {
      return pages.at(at / TPX_PAGE_WORDS).word[at % TPX_PAGE_WORDS];
    };
    const uint32_t net = address >> (32 - TPX_V4_NET_BITS);
    const uint16_t common = tables_.v4_class[dimension][word(net / 16) >> net % 16 * 2 & 3];
    if (common != TPX_STEP_SEARCH) return common;
    uint32_t at = word(TPX_V4_NET_WORDS + (address >> 16));
    if ((at & TPX_AT_TABLE) != 0) at = word(TPX_AT(at) + (address >> 8 & 255));
    if ((at & TPX_AT_RANGES) == 0) return at;
    uint32_t found = word(TPX_AT(at));
    for (size_t i = 1; i < TPX_AT_COUNT(at); ++i) {
      if (word(TPX_AT(at) + i) >> 16 <= (address & 0xffff)) found = word(TPX_AT(at) + i);
    }
    return found & 0xffff;
  }

  uint32_t SearchV6(size_t dimension, const IpAddr& address) const {
    const auto& w = address.raw.w;
    const std::array<uint64_t, 2> key = {uint64_t{ntohl(w[0])} << 32 | ntohl(w[1]),
                                         uint64_t{ntohl(w[2])} << 32 | ntohl(w[3])};
    uint32_t at = tables_.v6_root[dimension];
    for (uint16_t level = 0; level < tables_.v6_levels[dimension]; ++level) {
      tpx_v6_node node;
      memcpy(&node, &pages_[dimension]->at(at), sizeof(node));
      at = node.next[0];
      for (size_t i = 1; i < TPX_V6_FANOUT; ++i) {
        if (std::array<uint64_t, 2>{node.high[i], node.low[i]} <= key) at = node.next[i];
      }
    }
    return at;
  }

  const tpx_tables& tables_;
  const std::vector<tpx_page>* pages_[2];
  const std::vector<AttributeEntry>& attributes_;
};

}  // namespace tpx::policy
