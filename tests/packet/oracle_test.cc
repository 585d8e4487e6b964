// SPDX-License-Identifier: Apache-2.0
// Random policies and packets: the programs must say what a plain reading of the rules says.
#include <netinet/in.h>

#include <algorithm>
#include <cstdio>
#include <random>
#include <sstream>

#include "support/packet_fixture.h"
#include "support/reference_policy.h"
#include "support/scale.h"

namespace tpx::test {
namespace {

class Dice {
 public:
  explicit Dice(uint32_t seed) : engine_(seed) {}
  uint32_t Below(uint32_t n) { return static_cast<uint32_t>(engine_() % n); }
  bool OneIn(uint32_t n) { return Below(n) == 0; }

  // Few values, so that rules and packets meet; their neighbours and the ends among them.
  uint16_t Port() {
    constexpr uint16_t kPorts[] = {0, 1, 22, 79, 80, 81, 442, 443, 444, 8080, 32768, 65534, 65535};
    return kPorts[Below(std::size(kPorts))];
  }
  uint8_t Protocol() {
    constexpr uint8_t kProtocols[] = {IPPROTO_TCP, IPPROTO_TCP, IPPROTO_TCP, IPPROTO_UDP, IPPROTO_SCTP, 47};
    return kProtocols[Below(std::size(kProtocols))];
  }
  IpAddr Address(bool v4, bool src) {
    uint32_t last = OneIn(4) ? Below(256) : Below(8);
    std::ostringstream text;
    if (v4) {
      text << (src ? "192.0.2." : OneIn(3) ? "203.0.113." : "198.51.100.") << last;
    } else {
      text << "2001:db8:" << (src ? 1 : 2 + Below(2)) << "::" << std::hex << last + 1;
    }
    return test::Address(text.str());
  }
  Prefix PrefixOf(const IpAddr& addr) {
    uint32_t bits = addr.is_v4() ? 32 : 128;
    uint32_t length = OneIn(3) ? Below(bits + 1) : bits - Below(8);
    if (addr.is_v4()) length += 96;
    Prefix prefix{addr, static_cast<uint8_t>(length)};
    auto* bytes = reinterpret_cast<uint8_t*>(&prefix.addr.raw);
    for (uint32_t bit = length; bit < 128; ++bit) bytes[bit / 8] &= static_cast<uint8_t>(~(0x80 >> bit % 8));
    return prefix;
  }

 private:
  std::mt19937 engine_;
};

policy::Rule RandomRule(Dice& dice) {
  policy::Rule rule;
  for (uint32_t i = dice.Below(3); i > 0; --i) rule.protocols.push_back(dice.Protocol());
  for (auto* prefixes : {&rule.src, &rule.dst}) {
    if (dice.OneIn(2)) continue;
    for (uint32_t i = 1 + dice.Below(3); i > 0; --i) {
      prefixes->push_back(dice.PrefixOf(dice.Address(dice.OneIn(2), prefixes == &rule.src)));
    }
  }
  for (auto* ports : {&rule.sports, &rule.dports}) {
    if (dice.OneIn(2)) continue;
    for (uint32_t i = 1 + dice.Below(3); i > 0; --i) {
      uint16_t a = dice.Port(), b = dice.OneIn(2) ? a : dice.Port();
      ports->push_back({std::min(a, b), std::max(a, b)});
    }
  }
  rule.action = static_cast<tpx_action>(dice.Below(5));
  if (rule.action == TPX_ACTION_REDIRECT) {
    rule.target = {.addr = dice.Address(dice.OneIn(2), false), .port = dice.Port()};
  } else {
    rule.source = static_cast<tpx_source_mode>(dice.Below(2));
    rule.mapping = static_cast<tpx_mapping>(dice.Below(2));
  }
  rule.matches_nothing = dice.OneIn(20);
  if (dice.OneIn(8)) rule.uids = {{0, 9}};  // nobody knows the user of a packet
  return rule;
}

bool ConcernsOthers(const policy::Policy& policy) {
  for (const policy::Rule& rule : policy.rules) {
    if (rule.matches_nothing || rule.asks_for_owner() ||
        (rule.action != TPX_ACTION_DROP && rule.action != TPX_ACTION_REJECT))
      continue;
    bool ports = !rule.sports.empty() || !rule.dports.empty();
    if (rule.protocols.empty() && !ports) return true;
    for (uint8_t protocol : rule.protocols) {
      if (protocol != IPPROTO_UDP && protocol != IPPROTO_TCP && !ports) return true;
    }
  }
  return false;
}

bool HasSockets(uint8_t protocol) { return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP; }

tpx_reason ReasonOf(tpx_action action) {
  constexpr tpx_reason kReasons[] = {TPX_R_RULE_BYPASS, TPX_R_RULE_PROXY, TPX_R_RULE_DROP, TPX_R_RULE_REJECT,
                                     TPX_R_RULE_PROXY};
  return kReasons[action];
}

tpx_listener ListenerOf(const policy::Rule& rule, uint8_t protocol) {
  const bool redirected = rule.action == TPX_ACTION_REDIRECT, preserved = rule.source == TPX_SOURCE_PRESERVE;
  if (protocol == IPPROTO_TCP) {
    return redirected  ? TPX_LISTENER_TCP_REDIRECT
           : preserved ? TPX_LISTENER_TCP_PRESERVE
                       : TPX_LISTENER_TCP_MASQUERADE;
  }
  if (redirected || rule.mapping == TPX_MAPPING_ADDRESS_AND_PORT_DEPENDENT) return TPX_LISTENER_UDP_PAIR;
  return preserved ? TPX_LISTENER_UDP_PRESERVE : TPX_LISTENER_UDP_MASQUERADE;
}

bool SameTarget(const std::optional<tpx_verdict>& verdict, const Endpoint& target) {
  return verdict.has_value() && verdict->action == TPX_ACTION_REDIRECT &&
         IpAddr{verdict->to.addr} == target.addr && ntohs(verdict->to.port) == target.port;
}

class Oracle : public PacketTest {
 protected:
  static policy::TestFlow RandomFlow(Dice& dice) {
    bool v4 = dice.OneIn(2);
    policy::TestFlow flow{dice.Address(v4, true), dice.Address(v4, false), dice.Protocol(), 0, 0};
    if (HasSockets(flow.protocol)) {
      flow.sport = dice.Port();
      flow.dport = dice.Port();
    }
    return flow;
  }
  static Packet FirstPacketOf(const policy::TestFlow& flow) {
    Packet packet = Packet().Ip(flow.src, flow.dst);
    if (flow.protocol == IPPROTO_TCP) return packet.Tcp(flow.sport, flow.dport).Syn();
    if (flow.protocol == IPPROTO_UDP) return packet.Udp(flow.sport, flow.dport);
    return packet.Protocol(flow.protocol).Payload(8);
  }
  // tc's decision for the first packet, then sk_lookup's with tc's word and without. Whether the
  // packet counts for its rule.
  static void Compare(const policy::Policy& policy, const policy::TestFlow& flow, bool concerns_others,
                      bool* counts) {
    size_t rule = policy::FirstMatch(policy, flow);
    tpx_action action = policy.rules[rule].action;
    tpx_flow key = FlowOf(flow.src, flow.sport, flow.dst, flow.dport, flow.protocol);
    bool known = flow.protocol == IPPROTO_UDP && runner().InFlows(key);
    bool judged = HasSockets(flow.protocol) || concerns_others;
    bool proxied = action == TPX_ACTION_PROXY || action == TPX_ACTION_REDIRECT;
    *counts = judged && !known;
    runner().AllowRefusals();
    ASSERT_EQ(Lan(FirstPacketOf(flow)), Leaves(!judged   ? TPX_R_OTHER_PROTOCOL
                                               : !known  ? ReasonOf(action)
                                               : proxied ? TPX_R_ESTABLISHED
                                                         : TPX_R_DIRECT))
        << "rule " << rule;
    if (!HasSockets(flow.protocol)) return;  // nor does sk_lookup run
    if (flow.protocol == IPPROTO_UDP) {
      ASSERT_EQ(runner().InFlows(key), proxied || action == TPX_ACTION_BYPASS) << "rule " << rule;
    }
    for (int with_word = 1; with_word >= 0; --with_word) {
      LookupOutcome found = runner().Lookup(key);
      tpx_reason expected = action == TPX_ACTION_BYPASS ? TPX_R_LK_NOT_OURS
                            : proxied                   ? TPX_R_LK_STEERED
                                                        : TPX_R_LK_REFUSED;
      ASSERT_EQ(found.reason, expected) << "rule " << rule;
      if (expected != TPX_R_LK_STEERED) continue;
      ASSERT_EQ(found.listener % TPX_LISTENER_KINDS, ListenerOf(policy.rules[rule], flow.protocol));
      if (action != TPX_ACTION_REDIRECT) continue;
      ASSERT_TRUE(SameTarget(runner().Remembered(key), policy.rules[rule].target)) << "rule " << rule;
    }
  }
};

TEST_F(Oracle, ProgramsAgreeWithAPlainReadingOfTheRules) {
  const uint32_t policies = Scaled(60), packets = 1000;
  runner().StartWorkers(3);
  for (uint32_t seed = 1; seed <= policies; ++seed) {
    Dice dice(seed);
    std::vector<policy::Rule> rules(dice.Below(seed % 10 == 0 ? 300 : 12));
    for (policy::Rule& rule : rules) rule = RandomRule(dice);
    policy::Policy policy = PolicyOf(rules);
    runner().Publish(policy);
    runner().ForgetFlows();
    bool concerns_others = ConcernsOthers(policy), counts = false;
    std::vector<uint64_t> expected(policy.rules.size());
    for (size_t i = 0; i < expected.size(); ++i) {
      expected[i] = runner().RuleHits(runner().generation(), static_cast<uint32_t>(i));
    }
    for (uint32_t i = 0; i < packets; ++i) {
      policy::TestFlow flow = RandomFlow(dice);
      Compare(policy, flow, concerns_others, &counts);
      ASSERT_FALSE(HasFatalFailure())
          << "seed " << seed << ": " << flow.src.ToString() << " " << flow.sport << " > "
          << flow.dst.ToString() << " " << flow.dport << " protocol " << unsigned{flow.protocol};
      if (counts) ++expected[policy::FirstMatch(policy, flow)];
    }
    for (size_t i = 0; i < expected.size(); ++i) {
      ASSERT_EQ(runner().RuleHits(runner().generation(), static_cast<uint32_t>(i)), expected[i])
          << "seed " << seed << " rule " << i;
    }
  }
}

TEST_F(Oracle, PrefixesBeyondTheBlocksAreFoundInThePages) {
  // Each needs a block of its own: more than there are, for either address.
  Dice dice(7);
  constexpr uint32_t kPrefixes = TPX_MAX_BLOCKS;
  policy::Rule rule = RuleFor({}, TPX_ACTION_DROP);
  auto address = [](bool v4, uint32_t i) {
    char text[64];
    v4 ? std::snprintf(text, sizeof(text), "198.%u.%u.7", 51 + i / 256, i % 256)
       : std::snprintf(text, sizeof(text), "2001:db8:%x::7", i);
    return test::Address(text);
  };
  for (uint32_t i = 0; i < kPrefixes; ++i) {
    rule.dst.push_back({address(true, i), 128});
    rule.dst.push_back({address(false, i), 128});
  }
  policy::Policy policy = PolicyOf({rule});
  runner().Publish(policy);
  for (uint32_t i = 0; i < 2000; ++i) {
    bool v4 = dice.OneIn(2), listed = dice.OneIn(2);
    policy::TestFlow flow{dice.Address(v4, true), address(v4, dice.Below(kPrefixes + 256)), IPPROTO_TCP, 1,
                          2};
    auto* last = reinterpret_cast<uint8_t*>(&flow.dst.raw) + 15;
    *last = static_cast<uint8_t>(listed ? *last : 6 + dice.Below(3));
    bool counts = false;
    Compare(policy, flow, false, &counts);
    ASSERT_FALSE(HasFatalFailure()) << flow.dst.ToString();
  }
}

bool AllPorts(const std::vector<policy::PortRange>& ranges) {
  return ranges.empty() || std::any_of(ranges.begin(), ranges.end(), [](const policy::PortRange& range) {
           return range.first == 0 && range.last == 65535;
         });
}

enum class Portless { kPass, kDrop, kProxy };

// What becomes of a packet whose ports are unknown: the first rule that could match it proxies it whatever
// they are; or any assignment of ports would be denied, or proxied, tried one by one.
Portless WithoutPorts(const policy::Policy& policy, const policy::TestFlow& flow) {
  bool first = true, proxied = false;
  for (const policy::Rule& rule : policy.rules) {
    policy::Rule any_port = rule;
    any_port.sports.clear();
    any_port.dports.clear();
    if (!policy::reference::Matches(any_port, flow)) continue;
    bool portless = AllPorts(rule.sports) && AllPorts(rule.dports);
    if (!HasSockets(flow.protocol) && !(rule.sports.empty() && rule.dports.empty())) continue;
    if (rule.action == TPX_ACTION_DROP || rule.action == TPX_ACTION_REJECT) return Portless::kDrop;
    if (first && portless && rule.is_proxied() && flow.protocol == IPPROTO_UDP) return Portless::kProxy;
    proxied |= rule.is_proxied();
    if (portless) break;
    first = false;
  }
  return proxied ? Portless::kProxy : Portless::kPass;
}

TEST_F(Oracle, FragmentsWithoutTheirFirstAgreeToo) {
  const uint32_t policies = Scaled(40), packets = 300;
  runner().StartWorkers(1);
  for (uint32_t seed = 1; seed <= policies; ++seed) {
    Dice dice(seed + 1'000'000);
    std::vector<policy::Rule> rules(dice.Below(12));
    for (policy::Rule& rule : rules) rule = RandomRule(dice);
    policy::Policy policy = PolicyOf(rules);
    runner().Publish(policy);
    for (uint32_t i = 0; i < packets; ++i) {
      policy::TestFlow flow = RandomFlow(dice);
      Packet later =
          Packet().Ip(flow.src, flow.dst).Fragment(64, false, i).Protocol(flow.protocol).Payload(8);
      constexpr tpx_reason kExpected[] = {TPX_R_FRAG_PASSED, TPX_R_FRAG_DROPPED, TPX_R_FRAG_AHEAD};
      ASSERT_EQ(Lan(later), Leaves(kExpected[static_cast<int>(WithoutPorts(policy, flow))]))
          << "seed " << seed << " packet " << i;
    }
  }
}

}  // namespace
}  // namespace tpx::test
