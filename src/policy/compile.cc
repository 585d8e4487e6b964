// SPDX-License-Identifier: Apache-2.0
#include "tpx/policy/compile.h"

#include <netinet/in.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <unordered_map>

#include "tpx/base/strings.h"

namespace tpx::policy {
namespace {

constexpr size_t kPorts = 65536;

void SetBit(tpx_bits& bits, size_t rule) {
  bits.word[rule / 64] |= uint64_t{1} << (rule % 64);
  bits.summary |= uint64_t{1} << (rule / 64);
}

void ClearBit(tpx_bits& bits, size_t rule) {
  bits.word[rule / 64] &= ~(uint64_t{1} << (rule % 64));
  if (bits.word[rule / 64] == 0) bits.summary &= ~(uint64_t{1} << (rule / 64));
}

bool HasBit(const tpx_bits& bits, size_t rule) { return (bits.word[rule / 64] >> (rule % 64) & 1) != 0; }

struct BitsHash {
  size_t operator()(const tpx_bits& bits) const {
    uint64_t hash = bits.summary;
    for (uint64_t word : bits.word) hash = (hash ^ word) * 0x9e3779b97f4a7c15u, hash ^= hash >> 29;
    return hash;
  }
};
struct BitsEqual {
  bool operator()(const tpx_bits& a, const tpx_bits& b) const { return memcmp(&a, &b, sizeof(a)) == 0; }
};

// Gives each distinct set of rules a number.
class Classes {
 public:
  explicit Classes(tpx_tables& tables) : tables_(tables) {}

  uint32_t Number(const tpx_bits& bits) {
    auto [entry, fresh] = numbers_.emplace(bits, static_cast<uint32_t>(numbers_.size()));
    if (fresh && entry->second < TPX_MAX_CLASSES) tables_.bits[entry->second] = bits;
    return entry->second;
  }
  // Numbers beyond the table were given; the tables are void.
  bool overflowed() const { return numbers_.size() > TPX_MAX_CLASSES; }

 private:
  tpx_tables& tables_;
  std::unordered_map<tpx_bits, uint32_t, BitsHash, BitsEqual> numbers_;
};

bool HasPorts(uint8_t protocol) { return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP; }

// What a rule can match, whatever its list says: only TCP and UDP can be proxied,
// and only they are looked at for their ports.
bool AcceptsProtocol(const Rule& rule, uint8_t protocol) {
  if (rule.matches_nothing) return false;
  const bool ports_only = rule.is_proxied() || !rule.sports.empty() || !rule.dports.empty();
  if (ports_only && !HasPorts(protocol)) return false;
  return rule.protocols.empty() ||
         std::find(rule.protocols.begin(), rule.protocols.end(), protocol) != rule.protocols.end();
}

bool CoversAllPorts(std::vector<PortRange> ranges) {
  if (ranges.empty()) return true;
  std::sort(ranges.begin(), ranges.end(), [](PortRange a, PortRange b) { return a.first < b.first; });
  uint32_t next = 0;
  for (PortRange range : ranges) {
    if (range.first > next) return false;
    next = std::max(next, range.last + 1u);
  }
  return next == kPorts;
}

void CompileRules(const Policy& policy, tpx_tables& tables) {
  for (size_t i = 0; i < policy.rules.size(); ++i) {
    const Rule& rule = policy.rules[i];
    tables.rules[i] = {.counter = 0,  // the publisher's
                       .action = static_cast<uint8_t>(rule.action),
                       .fail_mode = static_cast<uint8_t>(rule.fail_mode),
                       .source = static_cast<uint8_t>(rule.source),
                       .mapping = static_cast<uint8_t>(rule.mapping),
                       .pad = {},
                       .to = {.addr = rule.target.addr.raw, .port = htons(rule.target.port), .pad = {}}};
    if (CoversAllPorts(rule.sports) && CoversAllPorts(rule.dports)) SetBit(tables.portless, i);
    bool stops = rule.action == TPX_ACTION_DROP || rule.action == TPX_ACTION_REJECT;
    if (stops || (rule.is_proxied() && rule.fail_mode != TPX_FAIL_OPEN)) SetBit(tables.denying, i);
    for (unsigned protocol = 0; protocol < 256 && stops; ++protocol) {
      if (!HasPorts(static_cast<uint8_t>(protocol)) && AcceptsProtocol(rule, static_cast<uint8_t>(protocol)))
        tables.classify_others = 1;
    }
  }
}

void CompileProtocols(const Policy& policy, Classes& classes, tpx_tables& tables) {
  for (unsigned protocol = 0; protocol < 256; ++protocol) {
    tpx_bits bits{};
    for (size_t i = 0; i < policy.rules.size(); ++i) {
      if (AcceptsProtocol(policy.rules[i], static_cast<uint8_t>(protocol))) SetBit(bits, i);
    }
    tables.proto_class[protocol] = static_cast<uint16_t>(classes.Number(bits));
  }
}

// Sweeps over the ports; the set changes only where a range begins or ends.
void CompilePorts(const Policy& policy, std::vector<PortRange> Rule::*member, Classes& classes,
                  uint16_t (&table)[kPorts]) {
  struct Change {
    uint32_t port;
    size_t rule;
    int by;
  };
  std::vector<Change> changes;
  std::vector<int> depth(policy.rules.size());  // ranges of a rule that hold the port: they may overlap
  tpx_bits bits{};
  for (size_t i = 0; i < policy.rules.size(); ++i) {
    const std::vector<PortRange>& ranges = policy.rules[i].*member;
    if (ranges.empty()) SetBit(bits, i);
    for (PortRange range : ranges) {
      changes.push_back({range.first, i, 1});
      changes.push_back({range.last + 1u, i, -1});
    }
  }
  std::sort(changes.begin(), changes.end(), [](const Change& a, const Change& b) { return a.port < b.port; });
  auto next = changes.begin();
  for (uint32_t port = 0; port < kPorts;) {
    for (; next != changes.end() && next->port == port; ++next) {
      depth[next->rule] += next->by;
      depth[next->rule] > 0 ? SetBit(bits, next->rule) : ClearBit(bits, next->rule);
    }
    uint32_t end = next == changes.end() ? kPorts : next->port;
    std::fill(table + port, table + end, static_cast<uint16_t>(classes.Number(bits)));
    port = end;
  }
}

struct Entry {
  Prefix prefix;
  uint16_t rule;
};

constexpr uint16_t kNoRule = TPX_MAX_RULES;

// In the space of the trie, where IPv4 lies inside IPv6.
bool Covers(const Prefix& outer, const Prefix& inner) {
  if (outer.length > inner.length) return false;
  unsigned word = outer.length / 32, bits = outer.length % 32;
  for (unsigned i = 0; i < word; ++i) {
    if (outer.addr.raw.w[i] != inner.addr.raw.w[i]) return false;
  }
  return bits == 0 || (ntohl(outer.addr.raw.w[word]) ^ ntohl(inner.addr.raw.w[word])) >> (32 - bits) == 0;
}

// All of IPv4.
Prefix V4Root() { return {IpAddr{.raw = {{0, 0, htonl(0xffff), 0}}}, 96}; }

// Every (prefix, rule) of one dimension, sorted so that a prefix comes right
// before those inside it. Where an IPv6 prefix surrounds all of IPv4 there is an
// entry for IPv4 itself, because the longest match would else find the former.
std::vector<Entry> SortedEntries(const Policy& policy, std::vector<Prefix> Rule::*member) {
  std::vector<Entry> entries;
  size_t total = 1;
  for (const Rule& rule : policy.rules) total += (rule.*member).size();
  entries.reserve(total);
  bool surrounded = false;
  const Prefix v4_root = V4Root();
  for (size_t i = 0; i < policy.rules.size(); ++i) {
    for (const Prefix& prefix : policy.rules[i].*member) {
      entries.push_back({prefix, static_cast<uint16_t>(i)});
      surrounded = surrounded || (!prefix.is_v4() && Covers(prefix, v4_root));
    }
  }
  if (surrounded) entries.push_back({v4_root, kNoRule});
  std::sort(entries.begin(), entries.end(),
            [](const Entry& a, const Entry& b) { return a.prefix < b.prefix; });
  return entries;
}

// Walks the sorted prefixes with the ones around the current one on a stack.
// False where there are more prefixes than the trie holds.
bool CompilePrefixes(const Policy& policy, std::vector<Prefix> Rule::*member, Classes& classes,
                     uint32_t& miss_class, std::vector<std::pair<tpx_prefix_key, uint32_t>>& out) {
  struct Level {
    Prefix prefix;
    tpx_bits bits;
    uint32_t number;
  };
  tpx_bits unconstrained{};
  for (size_t i = 0; i < policy.rules.size(); ++i) {
    if ((policy.rules[i].*member).empty()) SetBit(unconstrained, i);
  }
  miss_class = classes.Number(unconstrained);
  const Prefix v4_root = V4Root();
  std::vector<Level> around;
  std::vector<Entry> entries = SortedEntries(policy, member);
  for (size_t i = 0; i < entries.size();) {
    const Prefix& prefix = entries[i].prefix;
    while (!around.empty() && !Covers(around.back().prefix, prefix)) around.pop_back();
    const uint32_t outer = around.empty() ? miss_class : around.back().number;
    const bool fresh = around.empty() || prefix == v4_root;
    Level level{prefix, fresh ? unconstrained : around.back().bits, 0};
    bool changed = fresh;
    size_t end = i;
    for (; end < entries.size() && entries[end].prefix == prefix; ++end) {
      if (entries[end].rule == kNoRule || HasBit(level.bits, entries[end].rule)) continue;
      SetBit(level.bits, entries[end].rule);
      changed = true;
    }
    level.number = changed ? classes.Number(level.bits) : outer;
    if (classes.overflowed()) return true;
    if (level.number != outer) out.push_back({{prefix.length, prefix.addr.raw}, level.number});
    if (out.size() > TPX_MAX_PREFIXES) return false;
    around.push_back(level);
    i = end;
  }
  return true;
}

// Lays the prefixes of one dimension out as steps; see struct tpx_tables. They
// come outer before inner, so that a step is only ever split, never overwritten.
class StepTable {
 public:
  StepTable(tpx_tables& tables, size_t dimension, uint32_t miss_class)
      : tables_(tables),
        root_(tables.root[dimension]),
        next_(static_cast<uint16_t>(dimension * TPX_MAX_BLOCKS / 2)),
        end_(static_cast<uint16_t>(next_ + TPX_MAX_BLOCKS / 2)) {
    root_[0] = root_[1] = static_cast<uint16_t>(miss_class);
  }

  void Insert(const Prefix& prefix, uint32_t number) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(&prefix.addr.raw);
    const bool v4 = prefix.length >= 96 && prefix.is_v4();
    if (!v4 && Covers(prefix, V4Root())) root_[1] = static_cast<uint16_t>(number);
    uint16_t* step = &root_[v4 ? 1 : 0];
    size_t byte = v4 ? 12 : 0;
    for (size_t bits = prefix.length - 8 * byte; bits > 0; ++byte) {
      uint16_t* block = Split(*step);
      if (block == nullptr) return;
      step = &block[bytes[byte]];
      if (bits < 8) {
        std::fill_n(step, size_t{1} << (8 - bits), static_cast<uint16_t>(number));
        return;
      }
      bits -= 8;
    }
    *step = static_cast<uint16_t>(number);
  }

 private:
  // The block behind `step`; null where the trie has to be asked.
  uint16_t* Split(uint16_t& step) {
    if (step == TPX_STEP_TRIE) return nullptr;
    if ((step & TPX_STEP_BLOCK) == 0) {
      if (next_ == end_) {
        step = TPX_STEP_TRIE;
        return nullptr;
      }
      std::fill_n(tables_.block[next_], 256, step);
      step = TPX_STEP_BLOCK | next_++;
    }
    return tables_.block[step & ~TPX_STEP_BLOCK];
  }

  tpx_tables& tables_;
  uint16_t (&root_)[2];
  uint16_t next_, end_;
};

}  // namespace

absl::StatusOr<CompiledPolicy> Compile(const Policy& policy) {
  if (policy.rules.size() > TPX_MAX_RULES) {
    return absl::ResourceExhaustedError(StrCat("the policy has ", policy.rules.size(),
                                               " rules, more than TPX_MAX_RULES (", TPX_MAX_RULES, ")"));
  }
  auto unlimited = [](const Rule& r) {
    return !r.matches_nothing && !r.is_proxied() && r.protocols.empty() && r.src.empty() && r.dst.empty() &&
           r.sports.empty() && r.dports.empty();
  };
  if (policy.rules.empty() || !unlimited(policy.rules.back())) {
    return absl::InvalidArgumentError("the last rule of the policy does not match everything");
  }
  CompiledPolicy compiled{.tables = std::make_unique<tpx_tables>(), .prefixes = {}};
  tpx_tables& tables = *compiled.tables;
  tables.n_rules = static_cast<uint32_t>(policy.rules.size());
  Classes classes(tables);
  CompileRules(policy, tables);
  CompileProtocols(policy, classes, tables);
  CompilePorts(policy, &Rule::sports, classes, tables.port_class[TPX_DIM_SPORT]);
  CompilePorts(policy, &Rule::dports, classes, tables.port_class[TPX_DIM_DPORT]);
  constexpr std::vector<Prefix> Rule::*kMembers[] = {&Rule::src, &Rule::dst};
  for (size_t dimension : {TPX_DIM_SRC, TPX_DIM_DST}) {
    auto& prefixes = compiled.prefixes[dimension];
    if (!CompilePrefixes(policy, kMembers[dimension], classes, tables.miss_class[dimension], prefixes)) {
      return absl::ResourceExhaustedError(StrCat("the rules have more than TPX_MAX_PREFIXES (",
                                                 TPX_MAX_PREFIXES, ") different ",
                                                 dimension == TPX_DIM_SRC ? "src" : "dst", " prefixes"));
    }
    tables.n_prefixes[dimension] = static_cast<uint32_t>(prefixes.size());
  }
  if (classes.overflowed()) {
    return absl::ResourceExhaustedError(StrCat("the rules overlap in more than TPX_MAX_CLASSES (",
                                               TPX_MAX_CLASSES, ") different ways; merge rules or sets"));
  }
  for (size_t dimension : {TPX_DIM_SRC, TPX_DIM_DST}) {
    StepTable steps(tables, dimension, tables.miss_class[dimension]);
    for (const auto& [key, number] : compiled.prefixes[dimension]) {
      steps.Insert({IpAddr{key.addr}, static_cast<uint8_t>(key.prefixlen)}, number);
    }
  }
  return compiled;
}

}  // namespace tpx::policy
