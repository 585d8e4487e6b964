// SPDX-License-Identifier: Apache-2.0
#include "control/local_addresses.h"

#include <gmock/gmock.h>

#include "tpx_abi.h"

namespace tpx::control {
namespace {

using ::testing::ElementsAre;
using ::testing::Pair;

IpAddr Ip(const char* text) { return *IpAddr::Parse(text); }

TEST(LocalAddresses, SubnetBroadcastCountsWithoutBeingConfigured) {
  EXPECT_THAT(
      LocalAddresses({{.index = 2, .addr = Ip("192.0.2.1"), .prefix_length = 120, .broadcast = {}}}),
      ElementsAre(Pair(Ip("192.0.2.1"), TPX_LOCAL_ADDRESS), Pair(Ip("192.0.2.255"), TPX_LOCAL_BROADCAST)));
}

TEST(LocalAddresses, ConfiguredBroadcastCounts) {
  EXPECT_THAT(
      LocalAddresses(
          {{.index = 2, .addr = Ip("192.0.2.1"), .prefix_length = 128, .broadcast = Ip("192.0.2.9")}}),
      ElementsAre(Pair(Ip("192.0.2.1"), TPX_LOCAL_ADDRESS), Pair(Ip("192.0.2.9"), TPX_LOCAL_BROADCAST)));
}

TEST(LocalAddresses, PointToPointPrefixesHaveNoBroadcast) {
  EXPECT_THAT(
      LocalAddresses({{.index = 2, .addr = Ip("192.0.2.2"), .prefix_length = 127, .broadcast = {}},
                      {.index = 2, .addr = Ip("2001:db8::1"), .prefix_length = 64, .broadcast = {}}}),
      ElementsAre(Pair(Ip("192.0.2.2"), TPX_LOCAL_ADDRESS), Pair(Ip("2001:db8::1"), TPX_LOCAL_ADDRESS)));
}

TEST(LocalAddresses, AddressThatIsAlsoABroadcastIsAnAddress) {
  EXPECT_THAT(LocalAddresses({{.index = 2, .addr = Ip("192.0.2.255"), .prefix_length = 119, .broadcast = {}},
                              {.index = 3, .addr = Ip("192.0.2.1"), .prefix_length = 120, .broadcast = {}}}),
              ::testing::Contains(Pair(Ip("192.0.2.255"), TPX_LOCAL_ADDRESS)));
}

}  // namespace
}  // namespace tpx::control
