// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "support/packet.h"
#include "support/prog_runner.h"

namespace tpx::test {

// The cast of the packet tests, once per family.
struct Family {
  const char* name;
  const char *client, *server, *other_server, *gateway, *broadcast;
  const char *loopback, *unspecified, *multicast, *link_local, *metadata;
  const char *server_net, *wider_net;
  friend std::ostream& operator<<(std::ostream& out, const Family& f) { return out << f.name; }
};

inline constexpr Family kFamilies[] = {
    {"V4", "192.0.2.2", "198.51.100.7", "198.51.100.8", "192.0.2.1", "192.0.2.255", "127.0.0.1", "0.0.0.0",
     "224.0.0.251", "169.254.1.1", "100.100.100.200", "198.51.100.0/24", "198.51.0.0/16"},
    {"V6", "2001:db8:1::2", "2001:db8:2::7", "2001:db8:2::8", "2001:db8:1::1", "2001:db8:1::ff", "::1",
     "::", "ff02::fb", "fe80::1", "fd00:ec2::254", "2001:db8:2::/48", "2001:db8::/32"},
};

inline constexpr uint16_t kClientPort = 40000;

inline IpAddr Address(std::string_view text) { return *IpAddr::Parse(text); }

// Rules for tests: whatever is not said accepts everything.
inline policy::Rule RuleFor(std::vector<uint16_t> ports, tpx_action action,
                            tpx_fail_mode mode = TPX_FAIL_OPEN, std::vector<uint8_t> protocols = {6}) {
  policy::Rule rule;
  rule.protocols = std::move(protocols);
  for (uint16_t port : ports) rule.dports.push_back({port, port});
  rule.action = action;
  rule.fail_mode = mode;
  return rule;
}

// The rules, then "bypass everything".
inline policy::Policy PolicyOf(std::vector<policy::Rule> rules) {
  rules.push_back({});
  return {std::move(rules)};
}

// One runner per test program: loading takes most of the time.
inline ProgRunner& SharedRunner() {
  static ProgRunner runner;
  return runner;
}

class PacketTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (ProgRunner::Privileged()) return SharedRunner().Reset();
    const char* required = std::getenv("TPX_REQUIRE_PRIV");
    if (required != nullptr && std::string(required) == "1") FAIL() << "needs root";
    GTEST_SKIP() << "needs root: BPF programs are loaded";
  }

  static ProgRunner& runner() { return SharedRunner(); }
  static Outcome Lan(const Packet& packet, uint32_t mark = 0) {
    return runner().Run(Hook::kLan, packet.Build(), mark);
  }
  static Outcome Wan(const Packet& packet, uint32_t mark = 0) {
    return runner().Run(Hook::kWan, packet.Build(), mark);
  }
};

// Ports of the policy that most tests use: what a new flow to each of them meets.
enum Port : uint16_t {
  kProxied = 443,  // proxied, fails open
  kProxiedClosed = 444,
  kProxiedReset = 445,
  kPreserved = 446,  // proxied, the client's address preserved
  kDropped = 23,
  kRejected = 24,
  kBypassed = 80,  // the default
};

class FamilyTest : public PacketTest, public ::testing::WithParamInterface<Family> {
 protected:
  void SetUp() override {
    PacketTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    runner().AddLocal(Address(f().gateway));
    runner().AddLocal(Address(f().broadcast), TPX_LOCAL_BROADCAST);
    runner().StartWorkers(2);
    policy::Rule preserved = RuleFor({kPreserved}, TPX_ACTION_PROXY);
    preserved.source = TPX_SOURCE_PRESERVE;
    runner().Publish(PolicyOf(
        {RuleFor({kProxied}, TPX_ACTION_PROXY), RuleFor({kProxiedClosed}, TPX_ACTION_PROXY, TPX_FAIL_CLOSED),
         RuleFor({kProxiedReset}, TPX_ACTION_PROXY, TPX_FAIL_RESET), preserved,
         RuleFor({kDropped}, TPX_ACTION_DROP), RuleFor({kRejected}, TPX_ACTION_REJECT)}));
  }

  const Family& f() const { return GetParam(); }
  bool v4() const { return Address(f().client).is_v4(); }
  Packet FromClient() const { return Packet().Ip(f().client, f().server); }
  Packet SynTo(uint16_t port) const { return FromClient().Tcp(kClientPort, port).Syn(); }
  tpx_flow FlowTo(uint16_t port, uint16_t sport = kClientPort) const {
    return FlowOf(Address(f().client), sport, Address(f().server), port);
  }
};

// The same ports for UDP, and two more.
enum UdpPort : uint16_t {
  kPaired = 447,      // proxied, one upstream port per destination
  kRedirected = 448,  // to kTargetPort of the other server
};
inline constexpr uint16_t kTargetPort = 5353;

class DatagramTest : public FamilyTest {
 protected:
  static constexpr uint8_t kUdp = 17;

  void SetUp() override {
    FamilyTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    runner().Publish(UdpPolicy());
  }

  policy::Policy UdpPolicy() const {
    auto rule = [](uint16_t port, tpx_action action, tpx_fail_mode mode = TPX_FAIL_OPEN) {
      return RuleFor({port}, action, mode, {kUdp});
    };
    policy::Rule preserved = rule(kPreserved, TPX_ACTION_PROXY), paired = rule(kPaired, TPX_ACTION_PROXY),
                 redirected = rule(kRedirected, TPX_ACTION_REDIRECT);
    preserved.source = TPX_SOURCE_PRESERVE;
    paired.mapping = TPX_MAPPING_ADDRESS_AND_PORT_DEPENDENT;
    redirected.target = {.addr = Address(f().other_server), .port = kTargetPort};
    return PolicyOf({rule(kProxied, TPX_ACTION_PROXY),
                     rule(kProxiedClosed, TPX_ACTION_PROXY, TPX_FAIL_CLOSED),
                     rule(kProxiedReset, TPX_ACTION_PROXY, TPX_FAIL_RESET), preserved, paired, redirected,
                     rule(kDropped, TPX_ACTION_DROP), rule(kRejected, TPX_ACTION_REJECT)});
  }

  Packet To(uint16_t port, uint16_t sport = kClientPort) const {
    return FromClient().Udp(sport, port).Payload(32);
  }
  tpx_flow Flow(uint16_t port, uint16_t sport = kClientPort) const {
    return FlowOf(Address(f().client), sport, Address(f().server), port, kUdp);
  }
  Endpoint Client(uint16_t port = kClientPort) const { return {Address(f().client), port}; }
  Endpoint Server(uint16_t port) const { return {Address(f().server), port}; }
};

#define TPX_BOTH_FAMILIES(suite)                                            \
  INSTANTIATE_TEST_SUITE_P(Families, suite, ::testing::ValuesIn(kFamilies), \
                           [](const auto& family) { return family.param.name; })

}  // namespace tpx::test
