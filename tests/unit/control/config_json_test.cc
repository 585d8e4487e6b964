// SPDX-License-Identifier: Apache-2.0
#include "control/config_json.h"

#include <gtest/gtest.h>

namespace tpx::control {
namespace {

policy::Config Full() {
  policy::Config config;
  config.interfaces = {.lan = {"eth1", "veth*"}, .wan = {"eth0"}};
  config.steering = {.mark_mask = 0xf0,
                     .steer_mark = 0x10,
                     .own_mark = 0x20,
                     .route_table = 7,
                     .rule_priority = 8,
                     .attach = policy::AttachMode::kClsact};
  config.proxy = {.workers = 3, .max_sessions = 5, .pipes = 9, .timeouts = {.connect_ms = 1, .lease_ms = 77}};
  config.policy.rules.push_back({.name = "w\"eb \xc3\xa4",
                                 .protocols = {6, 17},
                                 .src = {*Prefix::Parse("192.0.2.0/24"), *Prefix::Parse("2001:db8::/32")},
                                 .dst = {*Prefix::Parse("::/0"), *Prefix::Parse("0.0.0.0/0")},
                                 .sports = {{1, 2}},
                                 .dports = {{80, 80}, {443, 65535}},
                                 .action = TPX_ACTION_REJECT,
                                 .fail_mode = TPX_FAIL_RESET,
                                 .source = TPX_SOURCE_PRESERVE,
                                 .matches_nothing = true,
                                 .line = 12,
                                 .column = 3});
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
