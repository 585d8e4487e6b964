// SPDX-License-Identifier: Apache-2.0
#include "control/config_json.h"

#include <gtest/gtest.h>

namespace tpx::control {
namespace {

// Every field of a rule and of the proxy's settings, none at its default: a
// field that is added does not compile here until it is given a value too.
policy::Rule FullRule() {
  policy::Rule rule;
  auto& [name, protocols, src, dst, sports, dports, interfaces, macs, dscps, marks, vlans, uids, gids,
         cgroups, programs, negated, action, fail_mode, source, mapping, target, limit, log, forward,
         matches_nothing, line, column] = rule;
  name = "w\"eb \xc3\xa4";
  protocols = {6, 17};
  src = {*Prefix::Parse("192.0.2.0/24"), *Prefix::Parse("2001:db8::/32")};
  dst = {*Prefix::Parse("::/0"), *Prefix::Parse("0.0.0.0/0")};
  sports = {{1, 2}};
  dports = {{80, 80}, {443, 65535}};
  interfaces = {"eth1", "veth*"};
  macs = {{0, 0x11, 0x22, 0x33, 0x44, 0xff}};
  dscps = {0, 46};
  marks = {{1, 0xff}, {0, 0xffffffff}};
  vlans = {1, 4094};
  uids = {{0, 0}, {1000, 0xfffffffe}};
  gids = {{5, 7}};
  cgroups = {{.path = "/a b/\xc3\xa4", .id = 0xffffffffffff}, {.path = "/", .id = 1}};
  programs = {{.path = "/usr/bin/curl", .file = {.inode = 0xffffffffffff, .device = 0xffffffff}}};
  negated = policy::kMatchSrc | policy::kMatchMark;
  limit = {100, 200, 60};
  log = TPX_LOG_SAMPLE;
  forward = TPX_FORWARD_AUTO;
  action = TPX_ACTION_REDIRECT;
  fail_mode = TPX_FAIL_RESET;
  source = TPX_SOURCE_PRESERVE;
  mapping = TPX_MAPPING_ADDRESS_AND_PORT_DEPENDENT;
  target = {*IpAddr::Parse("2001:db8::53"), 5353};
  matches_nothing = true;
  line = 12;
  column = 5;
  return rule;
}

policy::Proxy FullProxy() {
  policy::Proxy proxy;
  auto& [workers, max_sessions, pipes, max_udp, max_udp_per_client, reply_sockets, timeouts] = proxy;
  auto& [connect, idle, half_closed, drain, lease, keepalive_idle, keepalive_interval, keepalive_count,
         udp_one_way, udp_answered, udp_stream] = timeouts;
  uint32_t value = 1;
  for (uint32_t* field : {&workers, &max_sessions, &pipes, &max_udp, &max_udp_per_client, &reply_sockets,
                          &connect, &idle, &half_closed, &drain, &lease, &keepalive_idle, &keepalive_interval,
                          &keepalive_count, &udp_one_way, &udp_answered, &udp_stream}) {
    *field = value++;
  }
  return proxy;
}

policy::Config Full() {
  policy::Config config;
  config.file = "/etc/a b/config.yaml";
  config.set_files = {{.name = "blocked", .path = "lists/blocked.txt", .prefixes = 1'000'000}};
  config.interfaces = {.lan = {"eth1", "veth*"}, .wan = {"eth0"}};
  config.local = {.enabled = true, .cgroup = "/user.slice"};
  config.steering = {.mark_mask = 0xf0,
                     .steer_mark = 0x10,
                     .own_mark = 0x20,
                     .route_table = 7,
                     .rule_priority = 8,
                     .attach = policy::AttachMode::kClsact};
  config.xdp = policy::XdpMode::kGeneric;
  config.proxy = FullProxy();
  config.policy.rules.push_back(FullRule());
  config.policy.rules.push_back({.name = "redirected", .target = {*IpAddr::Parse("127.0.0.1"), 53}});
  config.policy.rules.push_back({.name = "default"});
  return config;
}

TEST(ConfigJson, ConfigurationSurvivesTheWayThroughText) {
  for (const policy::Config& config : {Full(), policy::Config{}}) {
    const auto back = DecodeConfig(EncodeConfig(config));
    ASSERT_TRUE(back.ok()) << back.status();
    EXPECT_EQ(*back, config);
  }
}

TEST(ConfigJson, DamagedTextIsAnError) {
  const std::string text = EncodeConfig(Full());
  for (size_t length = 0; length < text.size(); length += 7) {
    EXPECT_FALSE(DecodeConfig(text.substr(0, length)).ok());
  }
  EXPECT_FALSE(DecodeConfig("{}").ok());
  EXPECT_FALSE(DecodeConfig("[1]").ok());
}

}  // namespace
}  // namespace tpx::control
