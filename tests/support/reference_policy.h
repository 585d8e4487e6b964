// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <arpa/inet.h>
#include <fnmatch.h>
#include <netinet/in.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <string>
#include <vector>

#include "tpx/base/address.h"
#include "tpx/policy/compile.h"
#include "tpx/policy/config.h"

namespace tpx::policy {

// A flow as the rules see it.
struct TestFlow {
  IpAddr src{}, dst{};
  uint8_t protocol = IPPROTO_TCP;
  uint16_t sport = 0, dport = 0;  // host byte order; 0 where the protocol has none
  // The link.
  std::string device{};
  MacAddress mac{};
  uint8_t dscp = 0;
  uint32_t mark = 0;
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

inline bool FitsLink(const Rule& rule, const TestFlow& flow) {
  bool device = false, mark = false;
  for (const std::string& pattern : rule.interfaces)
    device = device || fnmatch(pattern.c_str(), flow.device.c_str(), 0) == 0;
  for (const MarkMatch& m : rule.marks) mark = mark || (flow.mark & m.mask) == m.value;
  return Fits(rule, kMatchInterface, rule.interfaces.empty(), device) &&
         Fits(rule, kMatchMac, rule.macs.empty(),
              std::count(rule.macs.begin(), rule.macs.end(), flow.mac) > 0) &&
         Fits(rule, kMatchDscp, rule.dscps.empty(),
              std::count(rule.dscps.begin(), rule.dscps.end(), flow.dscp) > 0) &&
         Fits(rule, kMatchMark, rule.marks.empty(), mark);
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
         InAny(rule.sports, flow.sport) && InAny(rule.dports, flow.dport) && FitsLink(rule, flow);
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
    const tpx_bits* sets[] = {Set(PrefixClass(TPX_DIM_SRC, flow.src)),
                              Set(PrefixClass(TPX_DIM_DST, flow.dst)),
                              Set(tables_.proto_class[flow.protocol]),
                              Set(tables_.port_class[TPX_DIM_SPORT][flow.sport]),
                              Set(tables_.port_class[TPX_DIM_DPORT][flow.dport]),
                              Set(tables_.dscp_class[flow.dscp]),
                              Set(MarkClass(flow.mark)),
                              ByMac(flow.mac)};
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

  const tpx_bits* ByMac(const MacAddress& mac) const {
    uint64_t value = 0;
    memcpy(&value, mac.data(), mac.size());
    for (const AttributeEntry& entry : attributes_) {
      if (entry.key.attribute == TPX_ATTR_MAC && entry.key.value == value) return &entry.rules;
    }
    return Set(tables_.other_class[TPX_ATTR_MAC]);
  }

  const tpx_bits* Set(uint32_t number) const { return &tables_.bits[number]; }

  uint32_t PrefixClass(size_t dimension, const IpAddr& address) const {
    const bool v4 = address.is_v4();
    const auto* bytes = reinterpret_cast<const uint8_t*>(&address.raw);
    uint16_t step = tables_.root[dimension][v4 ? 1 : 0];
    for (size_t byte = v4 ? 12 : 0; step != TPX_STEP_SEARCH && (step & TPX_STEP_BLOCK) != 0; ++byte)
      step = tables_.block[step & ~TPX_STEP_BLOCK][bytes[byte]];
    if (step != TPX_STEP_SEARCH) return step;
    return v4 ? SearchV4(*pages_[dimension], ntohl(address.raw.w[3])) : SearchV6(dimension, address);
  }

  static uint32_t SearchV4(const std::vector<tpx_page>& pages, uint32_t address) {
    auto word = [&pages](size_t at) { return pages.at(at / TPX_PAGE_WORDS).word[at % TPX_PAGE_WORDS]; };
    uint32_t at = word(address >> 16);
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
