// SPDX-License-Identifier: Apache-2.0
#include "control/devices.h"

#include <gmock/gmock.h>
#include <net/if.h>

namespace tpx::control {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

const std::vector<sys::LinkInfo> kLinks = {{.index = 1, .name = "lo", .flags = IFF_LOOPBACK | IFF_UP},
                                           {.index = 2, .name = "eth0"},
                                           {.index = 3, .name = "eth1"},
                                           {.index = 4, .name = "veth12"}};

std::vector<std::string> Names(const Resolution& resolution, Role role) {
  std::vector<std::string> names;
  for (const Device& device : resolution.devices) {
    if (device.role == role) names.push_back(device.name);
  }
  return names;
}

TEST(ResolveDevices, TakesNamesAndPatterns) {
  const Resolution r = ResolveDevices({.lan = {"eth1", "veth*"}, .wan = {"eth0"}}, kLinks);
  EXPECT_THAT(Names(r, Role::kLan), ElementsAre("eth1", "veth12"));
  EXPECT_THAT(Names(r, Role::kWan), ElementsAre("eth0"));
  EXPECT_EQ(r.devices[0].ifindex, 2);
  EXPECT_TRUE(CheckResolution(r, kLinks).ok());
}

TEST(ResolveDevices, NameGoesBeforePattern) {
  const Resolution r = ResolveDevices({.lan = {"eth*"}, .wan = {"eth0"}}, kLinks);
  EXPECT_THAT(Names(r, Role::kLan), ElementsAre("eth1"));
  EXPECT_THAT(Names(r, Role::kWan), ElementsAre("eth0"));
}

TEST(ResolveDevices, DeviceThatIsBothIsAConflict) {
  for (const policy::Interfaces& both : {policy::Interfaces{.lan = {"eth0"}, .wan = {"eth0"}},
                                         policy::Interfaces{.lan = {"e*0"}, .wan = {"eth?"}}}) {
    const Resolution r = ResolveDevices(both, kLinks);
    EXPECT_THAT(r.conflicts, ElementsAre("eth0"));
    EXPECT_THAT(std::string(CheckResolution(r, kLinks).message()), HasSubstr("both LAN and WAN"));
  }
}

TEST(ResolveDevices, PatternNeverMatchesLoopback) {
  EXPECT_THAT(Names(ResolveDevices({.lan = {"*"}, .wan = {}}, kLinks), Role::kLan),
              ElementsAre("eth0", "eth1", "veth12"));
}

TEST(ResolveDevices, LoopbackByNameIsRefused) {
  const Resolution r = ResolveDevices({.lan = {"lo"}, .wan = {}}, kLinks);
  EXPECT_THAT(std::string(CheckResolution(r, kLinks).message()), HasSubstr("loopback"));
}

TEST(ResolveDevices, TellsMissingNamesFromUnmatchedPatterns) {
  const Resolution r = ResolveDevices({.lan = {"eth7", "wg*"}, .wan = {"ppp0"}}, kLinks);
  EXPECT_THAT(r.missing, ElementsAre("eth7", "ppp0"));
  EXPECT_THAT(r.unmatched, ElementsAre("wg*"));
  EXPECT_THAT(r.devices, IsEmpty());
}

TEST(NamesOf, TellsTheVlanOfADevice) {
  const std::vector<sys::LinkInfo> links = {{.index = 2, .name = "eth0"},
                                            {.index = 7, .name = "guests", .vlan = 100}};
  const Resolution r = ResolveDevices({.lan = {"guests"}, .wan = {"eth0"}}, links);
  const auto names = NamesOf(r.devices, links);
  ASSERT_EQ(names.size(), 2u);
  EXPECT_EQ(names[0].vlan, 0);
  EXPECT_EQ(names[1].name, "guests");
  EXPECT_EQ(names[1].ifindex, 7u);
  EXPECT_EQ(names[1].vlan, 100);
}

TEST(CheckResolution, NamesSimilarDevicesOrAll) {
  const auto message = [](const char* name) {
    return std::string(CheckResolution(ResolveDevices({.lan = {name}, .wan = {}}, kLinks), kLinks).message());
  };
  EXPECT_EQ(message("eth7"), "there is no interface 'eth7'; similar: eth0, eth1");
  EXPECT_EQ(message("ppp0"), "there is no interface 'ppp0'; existing: eth0, eth1, veth12");
}

}  // namespace
}  // namespace tpx::control
