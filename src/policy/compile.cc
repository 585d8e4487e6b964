// SPDX-License-Identifier: Apache-2.0
#include "tpx/policy/compile.h"

#include <netinet/in.h>

#include <algorithm>

#include "policy/classes.h"
#include "policy/layout.h"
#include "policy/link.h"
#include "policy/owner.h"
#include "policy/ranges.h"
#include "tpx/base/status.h"
#include "tpx/base/strings.h"

namespace tpx::policy {
namespace {

constexpr size_t kPorts = 65536;

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

void CompileRules(const Policy& policy, Classes& classes, tpx_tables& tables) {
  tpx_bits portless{}, denying{}, steering{};
  for (size_t i = 0; i < policy.rules.size(); ++i) {
    const Rule& rule = policy.rules[i];
    tables.rules[i] = {.counter = 0,  // the publisher's
                       .action = static_cast<uint8_t>(rule.action),
                       .fail_mode = static_cast<uint8_t>(rule.fail_mode),
                       .source = static_cast<uint8_t>(rule.source),
                       .mapping = static_cast<uint8_t>(rule.mapping),
                       .penalty_s = static_cast<uint16_t>(rule.limit.penalty_s),
                       .rate = rule.limit.per_second,
                       .burst = rule.limit.burst,
                       .to = {.addr = rule.target.addr.raw, .port = htons(rule.target.port), .pad = {}},
                       .log = static_cast<uint8_t>(rule.log),
                       .forward = static_cast<uint8_t>(rule.forward),
                       .pad = {}};
    if (rule.asks_for_owner()) continue;  // what follows is about packets
    if (rule.forward != TPX_FORWARD_STACK && rule.action == TPX_ACTION_BYPASS) tables.forwards = 1;
    if (CoversAllPorts(rule.sports) && CoversAllPorts(rule.dports)) SetBit(portless, i);
    bool stops = rule.action == TPX_ACTION_DROP || rule.action == TPX_ACTION_REJECT;
    if (stops || (rule.is_proxied() && rule.fail_mode != TPX_FAIL_OPEN)) SetBit(denying, i);
    if (rule.is_proxied()) SetBit(steering, i);
    for (unsigned protocol = 0; protocol < 256 && stops; ++protocol) {
      if (!HasPorts(static_cast<uint8_t>(protocol)) && AcceptsProtocol(rule, static_cast<uint8_t>(protocol)))
        tables.classify_others = 1;
    }
  }
  tables.portless_class = static_cast<uint16_t>(classes.Number(portless));
  tables.denying_class = static_cast<uint16_t>(classes.Number(denying));
  tables.steering_class = static_cast<uint16_t>(classes.Number(steering));
}

void CompileProtocols(const Policy& policy, Classes& classes, tpx_tables& tables) {
  for (unsigned protocol = 0; protocol < 256; ++protocol) {
    tpx_bits of_packets{}, of_local_flows{};
    for (size_t i = 0; i < policy.rules.size(); ++i) {
      const Rule& rule = policy.rules[i];
      if (!AcceptsProtocol(rule, static_cast<uint8_t>(protocol))) continue;
      if (!rule.asks_for_owner()) SetBit(of_packets, i);
      if (!rule.asks_for_link()) SetBit(of_local_flows, i);
    }
    tables.proto_class[protocol] = static_cast<uint16_t>(classes.Number(of_packets));
    tables.local_proto_class[protocol] = static_cast<uint16_t>(classes.Number(of_local_flows));
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

template <typename Key>
void AddNumbers(const std::vector<Range<Key>>& ranges, std::vector<bool>& numbers) {
  for (const Range<Key>& range : ranges) numbers[range.number] = true;
}

// Fails where there are too many prefixes; where the classes overflow, the result is void.
absl::Status CompilePrefixes(const Policy& policy, size_t dimension, Classes& classes,
                             CompiledPolicy& compiled) {
  constexpr std::vector<Prefix> Rule::*kMembers[] = {&Rule::src, &Rule::dst};
  constexpr MatchKey kKeys[] = {kMatchSrc, kMatchDst};
  constexpr const char* kNames[] = {"src", "dst"};
  tpx_tables& tables = *compiled.tables;
  const AddressRanges ranges =
      MakeRanges(policy, kMembers[dimension], kKeys[dimension], classes, tables.miss_class[dimension]);
  if (classes.overflowed()) return absl::OkStatus();
  // That many prefixes begin and end that many ranges at most.
  constexpr size_t kMaxRanges = 2 * (TPX_MAX_PREFIXES + 1);
  if (ranges.v4.size() + ranges.v6.size() > kMaxRanges ||
      !LayOut(ranges, dimension, tables, compiled.pages[dimension])) {
    return absl::ResourceExhaustedError(StrCat("the rules have more than TPX_MAX_PREFIXES (",
                                               TPX_MAX_PREFIXES, ") different ", kNames[dimension],
                                               " prefixes"));
  }
  compiled.address_classes[dimension].resize(TPX_MAX_CLASSES);
  AddNumbers(ranges.v4, compiled.address_classes[dimension]);
  AddNumbers(ranges.v6, compiled.address_classes[dimension]);
  return absl::OkStatus();
}

absl::Status Fill(const Policy& policy, CompiledPolicy& compiled) {
  tpx_tables& tables = *compiled.tables;
  tables.n_rules = static_cast<uint32_t>(policy.rules.size());
  Classes classes(tables);
  CompileRules(policy, classes, tables);
  CompileProtocols(policy, classes, tables);
  CompilePorts(policy, &Rule::sports, classes, tables.port_class[TPX_DIM_SPORT]);
  CompilePorts(policy, &Rule::dports, classes, tables.port_class[TPX_DIM_DPORT]);
  TPX_RETURN_IF_ERROR(CompileLink(policy, classes, compiled));
  TPX_RETURN_IF_ERROR(CompileOwner(policy, classes, compiled));
  for (size_t dimension : {TPX_DIM_SRC, TPX_DIM_DST}) {
    TPX_RETURN_IF_ERROR(CompilePrefixes(policy, dimension, classes, compiled));
  }
  if (classes.overflowed()) {
    return absl::ResourceExhaustedError(StrCat("the rules overlap in more than TPX_MAX_CLASSES (",
                                               TPX_MAX_CLASSES, ") different ways; merge rules or sets"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<CompiledPolicy> Compile(const Policy& policy) {
  if (policy.rules.size() > TPX_MAX_RULES) {
    return absl::ResourceExhaustedError(StrCat("the policy has ", policy.rules.size(),
                                               " rules, more than TPX_MAX_RULES (", TPX_MAX_RULES, ")"));
  }
  auto unlimited = [](const Rule& r) {
    return !r.matches_nothing && !r.is_proxied() && r.protocols.empty() && r.src.empty() && r.dst.empty() &&
           r.sports.empty() && r.dports.empty() && !r.asks_for_link() && !r.asks_for_owner();
  };
  if (policy.rules.empty() || !unlimited(policy.rules.back())) {
    return absl::InvalidArgumentError("the last rule of the policy does not match everything");
  }
  CompiledPolicy compiled{
      .tables = std::make_unique<tpx_tables>(), .pages = {}, .address_classes = {}, .attributes = {}};
  TPX_RETURN_IF_ERROR(Fill(policy, compiled));
  return compiled;
  // The analyzer does not follow `compiled` into its destructor where Fill() fails.
  // NOLINTNEXTLINE(clang-analyzer-cplusplus.NewDeleteLeaks)
}

}  // namespace tpx::policy
