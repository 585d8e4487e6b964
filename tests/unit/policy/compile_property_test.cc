// SPDX-License-Identifier: Apache-2.0
// The tables mean what the policy means, for random policies and flows. The seed
// is printed; TPX_SEED repeats a run, TPX_POLICY one policy of it.
#include <gtest/gtest.h>
#include <netinet/in.h>

#include <cstdlib>
#include <iostream>
#include <random>
#include <string>
#include <vector>

#include "support/reference_policy.h"
#include "support/scale.h"
#include "tpx/base/strings.h"

namespace tpx::policy {
namespace {

constexpr uint32_t kPolicies = 2500;
constexpr uint32_t kCases = 180'000;  // that many at least: some policies have too many classes
constexpr int kFlowsPerPolicy = 100;

class Generator {
 public:
  explicit Generator(uint64_t seed) : random_(seed) {}

  Policy MakePolicy() {
    Policy policy;
    size_t rules = Below(10) == 0 ? Below(TPX_MAX_RULES - 1) : Below(12);
    for (size_t i = 0; i < rules; ++i) policy.rules.push_back(MakeRule());
    policy.rules.push_back(
        {.name = "default", .action = Below(2) == 0 ? TPX_ACTION_DROP : TPX_ACTION_BYPASS});
    return policy;
  }

  // Mostly at the edges of what the rules name, where mistakes are.
  TestFlow MakeFlow(const Policy& policy) {
    TestFlow flow{.src = MakeAddress(), .dst = MakeAddress(), .protocol = MakeProtocol()};
    const Rule& rule = policy.rules[Below(policy.rules.size())];
    if (!rule.src.empty()) flow.src = Near(rule.src[Below(rule.src.size())]);
    if (!rule.dst.empty()) flow.dst = Near(rule.dst[Below(rule.dst.size())]);
    if (!rule.protocols.empty() && Below(4) != 0)
      flow.protocol = rule.protocols[Below(rule.protocols.size())];
    if (flow.protocol != IPPROTO_TCP && flow.protocol != IPPROTO_UDP) return flow;
    flow.sport = MakePort(rule.sports);
    flow.dport = MakePort(rule.dports);
    return flow;
  }

 private:
  size_t Below(size_t n) { return std::uniform_int_distribution<size_t>(0, n - 1)(random_); }

  // Few distinct bytes, so that prefixes nest and addresses meet them.
  IpAddr MakeAddress() {
    IpAddr address;
    auto* bytes = reinterpret_cast<uint8_t*>(&address.raw);
    for (size_t i = 0; i < 16; ++i) bytes[i] = static_cast<uint8_t>(Below(3) == 0 ? 0xff : Below(2));
    if (Below(2) == 0) {
      address.raw.w[0] = address.raw.w[1] = 0;
      address.raw.w[2] = htonl(0xffff);
    }
    return address;
  }

  static IpAddr Mask(IpAddr address, size_t length) {
    auto* bytes = reinterpret_cast<uint8_t*>(&address.raw);
    for (size_t bit = length; bit < 128; ++bit) bytes[bit / 8] &= static_cast<uint8_t>(~(0x80 >> (bit % 8)));
    return address;
  }

  // Of the mapped space as the parser makes them: IPv4 has at least 96 bits.
  Prefix MakePrefix() {
    IpAddr address = MakeAddress();
    size_t least = address.is_v4() ? 96 : 0;
    size_t length = Below(4) == 0 ? least : least + Below(129 - least);
    return {Mask(address, length), static_cast<uint8_t>(length)};
  }

  IpAddr Near(const Prefix& prefix) {
    IpAddr address = MakeAddress(), inside = Mask(address, prefix.length);
    for (size_t i = 0; i < 4; ++i) address.raw.w[i] ^= inside.raw.w[i] ^ prefix.addr.raw.w[i];
    if (Below(3) == 0)
      reinterpret_cast<uint8_t*>(&address.raw)[Below(16)] ^= static_cast<uint8_t>(1 << Below(8));
    return address;
  }

  uint8_t MakeProtocol() {
    constexpr uint8_t kUsual[] = {IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMP, IPPROTO_ICMPV6, 47, 0, 255};
    return kUsual[Below(std::size(kUsual))];
  }

  uint16_t MakePort(const std::vector<PortRange>& ranges) {
    if (ranges.empty() || Below(4) == 0) return static_cast<uint16_t>(Below(65536));
    const PortRange& range = ranges[Below(ranges.size())];
    uint16_t edges[] = {range.first, range.last, static_cast<uint16_t>(range.first - 1),
                        static_cast<uint16_t>(range.last + 1)};
    return edges[Below(4)];
  }

  std::vector<PortRange> MakeRanges() {
    std::vector<PortRange> ranges(Below(2) == 0 ? 0 : Below(4));
    for (PortRange& range : ranges) {
      size_t first = Below(4) == 0 ? 0 : Below(65536);
      size_t last = Below(4) == 0 ? 65535 : first + Below(65536 - first);
      range = {static_cast<uint16_t>(first), static_cast<uint16_t>(last)};
    }
    return ranges;
  }

  Rule MakeRule() {
    constexpr tpx_action kActions[] = {TPX_ACTION_BYPASS, TPX_ACTION_PROXY, TPX_ACTION_DROP,
                                       TPX_ACTION_REJECT, TPX_ACTION_REDIRECT};
    Rule rule{.action = kActions[Below(std::size(kActions))],
              .fail_mode = static_cast<tpx_fail_mode>(Below(3)),
              .source = static_cast<tpx_source_mode>(Below(2)),
              .mapping = static_cast<tpx_mapping>(Below(2)),
              .matches_nothing = Below(20) == 0};
    if (rule.action == TPX_ACTION_REDIRECT) {
      rule.target = {MakeAddress(), static_cast<uint16_t>(1 + Below(65535))};
    }
    for (size_t i = Below(3); i > 0; --i) rule.protocols.push_back(MakeProtocol());
    for (size_t i = Below(2) * Below(5); i > 0; --i) rule.src.push_back(MakePrefix());
    for (size_t i = Below(2) * Below(5); i > 0; --i) rule.dst.push_back(MakePrefix());
    rule.sports = MakeRanges();
    rule.dports = MakeRanges();
    return rule;
  }

  std::mt19937_64 random_;
};

std::string Describe(const TestFlow& flow) {
  return StrCat(flow.src.ToString(), " port ", flow.sport, " to ", flow.dst.ToString(), " port ", flow.dport,
                " protocol ", static_cast<int>(flow.protocol));
}

bool Has(const tpx_bits& bits, size_t rule) { return (bits.word[rule / 64] >> (rule % 64) & 1) != 0; }

// What a rule does to the flows it gets.
void CheckRule(const Rule& rule, const tpx_tables& tables, size_t i) {
  const tpx_rule& compiled = tables.rules[i];
  ASSERT_EQ(compiled.action, rule.action);
  ASSERT_EQ(compiled.fail_mode, rule.fail_mode);
  ASSERT_EQ(compiled.source, rule.source);
  ASSERT_EQ(compiled.mapping, rule.mapping);
  ASSERT_EQ((Endpoint{IpAddr{compiled.to.addr}, ntohs(compiled.to.port)}), rule.target);
  const bool stops = rule.action == TPX_ACTION_DROP || rule.action == TPX_ACTION_REJECT;
  const bool goes_on = rule.action == TPX_ACTION_BYPASS || rule.fail_mode == TPX_FAIL_OPEN;
  ASSERT_EQ(Has(tables.bits[tables.denying_class], i), stops || !goes_on);
  ASSERT_EQ(Has(tables.bits[tables.steering_class], i), !stops && rule.action != TPX_ACTION_BYPASS);
}

// Whether a rule stops a protocol that is neither TCP nor UDP.
bool StopsOthers(Rule rule) {
  if (rule.action != TPX_ACTION_DROP && rule.action != TPX_ACTION_REJECT) return false;
  rule.src.clear();
  rule.dst.clear();
  for (int protocol = 0; protocol < 256; ++protocol) {
    if (protocol == IPPROTO_TCP || protocol == IPPROTO_UDP) continue;
    if (reference::Matches(rule, {.protocol = static_cast<uint8_t>(protocol)})) return true;
  }
  return false;
}

void CheckRules(const Policy& policy, const tpx_tables& tables) {
  bool others = false;
  for (size_t i = 0; i < policy.rules.size(); ++i) {
    CheckRule(policy.rules[i], tables, i);
    others = others || StopsOthers(policy.rules[i]);
  }
  ASSERT_EQ(tables.classify_others, others);
}

template <typename T, typename ToText>
std::string List(const char* key, const std::vector<T>& values, ToText to_text) {
  std::string text;
  for (const T& value : values) text += StrCat(text.empty() ? "" : ", ", to_text(value));
  return values.empty() ? "" : StrCat(" ", key, " [", text, "]");
}

std::string Describe(const Rule& rule) {
  auto prefix = [](const Prefix& p) { return p.ToString(); };
  auto range = [](const PortRange& r) { return StrCat(r.first, "-", r.last); };
  return StrCat("action ", static_cast<int>(rule.action),
                List("proto", rule.protocols, [](uint8_t p) { return StrCat(int{p}); }),
                List("src", rule.src, prefix), List("dst", rule.dst, prefix),
                List("sport", rule.sports, range), List("dport", rule.dports, range),
                rule.matches_nothing ? " matches nothing" : "");
}

// All that is needed to look at a failure without running it again.
std::string Case(const Policy& policy, const std::string& repeat) {
  std::string text = repeat;
  for (size_t i = 0; i < policy.rules.size(); ++i)
    text += StrCat("\n  rule ", i, ": ", Describe(policy.rules[i]));
  return text;
}

struct Tally {
  size_t cases = 0, not_default = 0, too_many_classes = 0, udp_proxied = 0, icmp_matched = 0;
};

void CheckFlow(const Policy& policy, const TestFlow& flow, const TableInterpreter& tables,
               const std::vector<Shadowed>& shadowed, Tally& tally) {
  const size_t expected = FirstMatch(policy, flow);
  ASSERT_EQ(tables.Evaluate(flow), expected);
  const bool proxied = policy.rules[expected].is_proxied();
  ASSERT_TRUE(!proxied || flow.protocol == IPPROTO_TCP || flow.protocol == IPPROTO_UDP);
  for (const Shadowed& s : shadowed) ASSERT_NE(s.rule, expected) << "shadowed by rule " << s.by;
  ++tally.cases;
  tally.not_default += expected + 1 < policy.rules.size();
  tally.udp_proxied += proxied && flow.protocol == IPPROTO_UDP;
  tally.icmp_matched += flow.protocol == IPPROTO_ICMP && expected + 1 < policy.rules.size();
}

// Policy number i of a seed depends on nothing but the two.
void CheckPolicy(uint64_t seed, uint32_t i, Tally& tally) {
  Generator generator(seed + uint64_t{i} * 0x9e3779b97f4a7c15);
  const Policy policy = generator.MakePolicy();
  const std::string repeat = StrCat("TPX_SEED=", seed, " TPX_POLICY=", i, " repeats it");
  absl::StatusOr<CompiledPolicy> compiled = Compile(policy);
  if (absl::IsResourceExhausted(compiled.status())) {
    ++tally.too_many_classes;
    return;
  }
  ASSERT_TRUE(compiled.ok()) << compiled.status() << "; " << Case(policy, repeat);
  CheckRules(policy, *compiled->tables);
  if (testing::Test::HasFatalFailure()) FAIL() << Case(policy, repeat);
  const std::vector<Shadowed> shadowed = FindShadowed(policy, *compiled);
  const TableInterpreter tables(*compiled);
  for (int j = 0; j < kFlowsPerPolicy; ++j) {
    const TestFlow flow = generator.MakeFlow(policy);
    CheckFlow(policy, flow, tables, shadowed, tally);
    if (testing::Test::HasFatalFailure()) FAIL() << Describe(flow) << "; " << Case(policy, repeat);
  }
}

TEST(CompileProperty, TablesMeanWhatThePolicyMeans) {
  const char *given = getenv("TPX_SEED"), *one = getenv("TPX_POLICY");
  const uint64_t seed = given != nullptr ? strtoull(given, nullptr, 10) : std::random_device()();
  std::cout << "TPX_SEED=" << seed << "\n";
  RecordProperty("seed", std::to_string(seed));
  Tally tally;
  if (one != nullptr) return CheckPolicy(seed, static_cast<uint32_t>(strtoul(one, nullptr, 10)), tally);
  const uint32_t policies = test::Scaled(kPolicies);
  for (uint32_t i = 0; i < policies && !HasFatalFailure(); ++i) CheckPolicy(seed, i, tally);
  if (HasFatalFailure()) return;
  std::cout << tally.cases << " cases\n";
  // The flows did test rules, and the policies were within the limits.
  EXPECT_GE(tally.cases, size_t{test::Scaled(kCases)});
  EXPECT_GT(tally.not_default, size_t{policies} * kFlowsPerPolicy / 10);
  EXPECT_GT(tally.udp_proxied, size_t{policies});
  EXPECT_GT(tally.icmp_matched, size_t{policies});
  EXPECT_LT(tally.too_many_classes, size_t{policies} / 4);
}

}  // namespace
}  // namespace tpx::policy
