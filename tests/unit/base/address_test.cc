// SPDX-License-Identifier: Apache-2.0
#include "tpx/base/address.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>

#include <cstring>
#include <random>
#include <utility>

namespace tpx {
namespace {

using Pair = std::pair<std::string, std::string>;

IpAddr Address(std::string_view text) { return *IpAddr::Parse(text); }
Prefix Net(std::string_view text) { return *Prefix::Parse(text); }

class CanonicalText : public testing::TestWithParam<Pair> {};

TEST_P(CanonicalText, IsWritten) {
  absl::StatusOr<IpAddr> address = IpAddr::Parse(GetParam().first);
  ASSERT_TRUE(address.ok()) << address.status();
  EXPECT_EQ(address->ToString(), GetParam().second);
  EXPECT_EQ(*IpAddr::Parse(address->ToString()), *address);
}

// The IPv6 ones are those of RFC 5952, sections 1, 2 and 4.
INSTANTIATE_TEST_SUITE_P(Addresses, CanonicalText,
                         testing::Values(Pair{"192.0.2.1", "192.0.2.1"}, Pair{"0.0.0.0", "0.0.0.0"},
                                         Pair{"255.255.255.255", "255.255.255.255"}, Pair{"::", "::"},
                                         Pair{"0:0:0:0:0:0:0:1", "::1"}, Pair{"1::0", "1::"},
                                         Pair{"2001:DB8:0:0:1:0:0:1", "2001:db8::1:0:0:1"},
                                         Pair{"2001:0db8:0:0:0:0:2:1", "2001:db8::2:1"},
                                         Pair{"2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"},
                                         Pair{"2001:0:0:1:0:0:0:1", "2001:0:0:1::1"},
                                         Pair{"0:0:2001:db8:0:0:1:1", "::2001:db8:0:0:1:1"},
                                         Pair{"1:2:3:4:5:6:0:0", "1:2:3:4:5:6::"},
                                         Pair{"::1.2.3.4", "::102:304"},
                                         Pair{"64:ff9b::192.0.2.33", "64:ff9b::c000:221"}));

class BadText : public testing::TestWithParam<Pair> {};

TEST_P(BadText, IsExplained) {
  EXPECT_EQ(Prefix::Parse(GetParam().first).status().message(), GetParam().second);
}

INSTANTIATE_TEST_SUITE_P(
    Prefixes, BadText,
    testing::Values(
        Pair{"", "'' is not an address or prefix"}, Pair{"10.0.0", "'10.0.0' is not an address or prefix"},
        Pair{"10.0.0.0/", "prefix length of '10.0.0.0/' is not a number from 0 to 32"},
        Pair{"10.0.0.0/33", "prefix length of '10.0.0.0/33' is not a number from 0 to 32"},
        Pair{"10.0.0.0/08", "prefix length of '10.0.0.0/08' is not a number from 0 to 32"},
        Pair{"10.0.0.0/-1", "prefix length of '10.0.0.0/-1' is not a number from 0 to 32"},
        Pair{"10.0.0.0/255.0.0.0", "prefix length of '10.0.0.0/255.0.0.0' is not a number from 0 to 32"},
        Pair{"::/129", "prefix length of '::/129' is not a number from 0 to 128"},
        Pair{"::/4294967296", "prefix length of '::/4294967296' is not a number from 0 to 128"},
        Pair{"10.0.0.1/8", "'10.0.0.1/8' has bits set behind its length, did you mean 10.0.0.0/8"},
        Pair{"10.0.0.1/0", "'10.0.0.1/0' has bits set behind its length, did you mean 0.0.0.0/0"},
        Pair{"2001:db8::1/32", "'2001:db8::1/32' has bits set behind its length, did you mean 2001:db8::/32"},
        Pair{"::ffff:0:0/96", "'::ffff:0:0/96' is an IPv4-mapped prefix, write 0.0.0.0/0"},
        Pair{"::ffff:192.0.2.1", "'::ffff:192.0.2.1' is an IPv4-mapped prefix, write 192.0.2.1/32"},
        Pair{"::ffff:0:0/90", "'::ffff:0:0/90' has bits set behind its length, did you mean ::ffc0:0:0/90"},
        Pair{" 10.0.0.1", "' 10.0.0.1' is not an address or prefix"},
        Pair{"fe80::1%1", "'fe80::1%1' is not an address or prefix"},
        Pair{std::string("10.0.0.1\0", 9), "'10.0.0.1\\000' is not an address or prefix"}));

TEST(IpAddr, RefusesMappedAndForeignText) {
  EXPECT_EQ(IpAddr::Parse("::ffff:192.0.2.1").status().message(),
            "'::ffff:192.0.2.1' is an IPv4-mapped address, write 192.0.2.1");
  for (std::string_view text :
       {"", "x", "1.2.3", "1.2.3.4.5", "01.2.3.4", "1.2.3.4/32", "[::1]", "::1 ", "1::2::3"}) {
    EXPECT_FALSE(IpAddr::Parse(text).ok()) << text;
  }
}

TEST(IpAddr, AgreesWithTheLibraryOnRandomText) {
  std::mt19937 random(1);
  for (int i = 0; i < 20'000; ++i) {
    in6_addr raw;
    for (auto& byte : raw.s6_addr) byte = random() % 3 == 0 ? static_cast<uint8_t>(random()) : 0;
    IpAddr address;
    memcpy(&address.raw, &raw, sizeof(raw));
    in6_addr back;
    ASSERT_EQ(inet_pton(AF_INET6, address.ToString().c_str(), &back), 1) << address.ToString();
    ASSERT_EQ(memcmp(&raw, &back, sizeof(raw)), 0) << address.ToString();
  }
}

TEST(IpAddr, OrdersByNetworkOrder) {
  EXPECT_LT(Address("10.0.0.255"), Address("10.0.1.0"));
  EXPECT_LT(Address("::1"), Address("0.0.0.0"));
  EXPECT_LT(Address("255.255.255.255"), Address("2001:db8::"));
}

TEST(Prefix, HoldsIpv4InMappedSpace) {
  EXPECT_EQ(Net("192.0.2.0/24").length, 120);
  EXPECT_EQ(Net("192.0.2.1").length, 128);
  EXPECT_EQ(Net("0.0.0.0/0").length, 96);
  EXPECT_TRUE(Net("0.0.0.0/0").is_v4());
  EXPECT_FALSE(Net("::/0").is_v4());
  for (std::string_view text :
       {"192.0.2.0/24", "192.0.2.1/32", "0.0.0.0/0", "::/0", "2001:db8::/32", "::1/128"}) {
    EXPECT_EQ(Net(text).ToString(), text);
  }
}

TEST(Prefix, ContainsAddressesOfItsFamilyOnly) {
  EXPECT_TRUE(Net("10.0.0.0/8").Contains(Address("10.255.0.1")));
  EXPECT_FALSE(Net("10.0.0.0/8").Contains(Address("11.0.0.0")));
  EXPECT_TRUE(Net("192.0.2.1").Contains(Address("192.0.2.1")));
  EXPECT_TRUE(Net("::/0").Contains(Address("2001:db8::1")));
  EXPECT_FALSE(Net("::/0").Contains(Address("192.0.2.1")));
  EXPECT_FALSE(Net("::/80").Contains(Address("192.0.2.1")));
  EXPECT_TRUE(Net("0.0.0.0/0").Contains(Address("255.255.255.255")));
  EXPECT_FALSE(Net("0.0.0.0/0").Contains(Address("::1")));
  EXPECT_TRUE(Net("2001:db8:8000::/33").Contains(Address("2001:db8:8000::1")));
  EXPECT_FALSE(Net("2001:db8:8000::/33").Contains(Address("2001:db8::1")));
}

class Sockaddrs : public testing::TestWithParam<std::string> {};

TEST_P(Sockaddrs, KeepTheEndpoint) {
  Endpoint endpoint{Address(GetParam()), 8080};
  sockaddr_storage storage{};
  unsigned length = endpoint.ToSockaddr6(storage);
  EXPECT_EQ(length, sizeof(sockaddr_in6));
  EXPECT_EQ(storage.ss_family, AF_INET6);
  EXPECT_EQ(Endpoint::FromSockaddr(reinterpret_cast<sockaddr&>(storage)), endpoint);
  storage = {};
  length = endpoint.ToNativeSockaddr(storage);
  EXPECT_EQ(length, endpoint.addr.is_v4() ? sizeof(sockaddr_in) : sizeof(sockaddr_in6));
  EXPECT_EQ(storage.ss_family, endpoint.addr.is_v4() ? AF_INET : AF_INET6);
  EXPECT_EQ(Endpoint::FromSockaddr(reinterpret_cast<sockaddr&>(storage)), endpoint);
}

INSTANTIATE_TEST_SUITE_P(BothFamilies, Sockaddrs, testing::Values("192.0.2.1", "2001:db8::1"));

TEST(Endpoint, IsWrittenWithBracketsWhereNeeded) {
  EXPECT_EQ((Endpoint{Address("192.0.2.1"), 80}.ToString()), "192.0.2.1:80");
  EXPECT_EQ((Endpoint{Address("2001:db8::1"), 80}.ToString()), "[2001:db8::1]:80");
}

TEST(Endpoint, IsEmptyForOtherFamilies) {
  sockaddr_storage storage{};
  storage.ss_family = AF_UNIX;
  EXPECT_EQ(Endpoint::FromSockaddr(reinterpret_cast<sockaddr&>(storage)), Endpoint());
}

}  // namespace
}  // namespace tpx
