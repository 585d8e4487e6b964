// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <map>
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
};

namespace reference {

inline bool InAny(const std::vector<Prefix>& prefixes, const IpAddr& address) {
  return prefixes.empty() ||
         std::any_of(prefixes.begin(), prefixes.end(), [&](const Prefix& p) { return p.Contains(address); });
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
  return InAny(rule.src, flow.src) && InAny(rule.dst, flow.dst) && InAny(rule.sports, flow.sport) &&
         InAny(rule.dports, flow.dport);
}

}  // namespace reference

// What a policy means: index of the first rule that matches.
inline size_t FirstMatch(const Policy& policy, const TestFlow& flow) {
  size_t rule = 0;
  while (rule < policy.rules.size() && !reference::Matches(policy.rules[rule], flow)) ++rule;
  return rule;
}

// Evaluates the compiled tables as the kernel side does: longest prefix, AND of
// the classes' sets word by word under the AND of the summaries, lowest bit.
class TableInterpreter {
 public:
  explicit TableInterpreter(const CompiledPolicy& compiled) : tables_(*compiled.tables) {
    for (size_t dimension : {0, 1}) {
      for (const auto& [key, number] : compiled.prefixes[dimension]) {
        tries_[dimension][key.prefixlen][IpAddr{key.addr}] = number;
      }
    }
  }

  // Index of the rule; n_rules if there is none.
  size_t Evaluate(const TestFlow& flow) const {
    const tpx_bits* sets[] = {
        Set(PrefixClass(TPX_DIM_SRC, flow.src)), Set(PrefixClass(TPX_DIM_DST, flow.dst)),
        Set(tables_.proto_class[flow.protocol]), Set(tables_.port_class[TPX_DIM_SPORT][flow.sport]),
        Set(tables_.port_class[TPX_DIM_DPORT][flow.dport])};
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
  const tpx_bits* Set(uint32_t number) const { return &tables_.bits[number]; }

  uint32_t PrefixClass(size_t dimension, const IpAddr& address) const {
    if (tables_.n_prefixes[dimension] == 0) return tables_.miss_class[dimension];
    for (const auto& [length, entries] : tries_[dimension]) {
      IpAddr masked = address;
      for (unsigned i = 0; i < 4; ++i) {
        unsigned kept = length <= 32 * i ? 0 : std::min(32u, length - 32 * i);
        masked.raw.w[i] &= kept == 0 ? 0 : htonl(~uint32_t{0} << (32 - kept));
      }
      if (auto entry = entries.find(masked); entry != entries.end()) return entry->second;
    }
    return tables_.miss_class[dimension];
  }

  const tpx_tables& tables_;
  std::map<uint32_t, std::map<IpAddr, uint32_t>, std::greater<>> tries_[2];  // by length, longest first
};

}  // namespace tpx::policy
