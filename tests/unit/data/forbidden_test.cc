// SPDX-License-Identifier: Apache-2.0
#include "tpx/data/forbidden.h"

#include <gtest/gtest.h>

namespace tpx::data {
namespace {

constexpr uint16_t kListenPort = 15001;

Endpoint At(const char* address, uint16_t port) {
  return {.addr = IpAddr::Parse(address).value(), .port = port};
}

bool Refused(const char* destination, uint16_t port = 443, const char* client = "192.0.2.10") {
  return IsForbidden(At(client, 40000), At(destination, port), kListenPort);
}

TEST(Forbidden, RefusesAddressesThatMeanThisMachineOrLink) {
  for (const char* address :
       {"0.0.0.0", "0.255.255.255", "127.0.0.1", "127.255.255.255", "169.254.0.0", "169.254.169.254",
        "169.254.255.255", "100.100.100.200", "224.0.0.1", "239.255.255.255", "255.255.255.255", "::", "::1",
        "fe80::1", "febf::1", "ff02::1", "ffff::", "fd00:ec2::254"}) {
    EXPECT_TRUE(Refused(address)) << address;
  }
}

TEST(Forbidden, AllowsTheirNeighbours) {
  for (const char* address :
       {"1.0.0.0", "126.255.255.255", "128.0.0.0", "169.253.255.255", "169.255.0.0", "100.100.100.199",
        "100.100.100.201", "223.255.255.255", "240.0.0.0", "255.255.255.254", "10.0.0.1", "192.168.1.1",
        "::2", "fe7f::1", "fec0::1", "fd00:ec2::253", "fd00:ec2::255", "2001:db8::1", "feff::1"}) {
    EXPECT_FALSE(Refused(address)) << address;
  }
}

TEST(Forbidden, RefusesTheListenerDialledFromItsOwnAddress) {
  EXPECT_TRUE(Refused("198.51.100.1", kListenPort, "198.51.100.1"));
  EXPECT_TRUE(Refused("2001:db8::1", kListenPort, "2001:db8::1"));
  EXPECT_FALSE(Refused("198.51.100.1", kListenPort, "192.0.2.10")) << "a server may use that port";
  EXPECT_FALSE(Refused("198.51.100.1", 443, "198.51.100.1"));
}

}  // namespace
}  // namespace tpx::data
