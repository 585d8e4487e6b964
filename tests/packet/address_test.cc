// SPDX-License-Identifier: Apache-2.0
// Addresses that are never proxied and senders that cannot be.
#include "support/packet_fixture.h"

namespace tpx::test {
namespace {

class AddressOf : public FamilyTest {
 protected:
  void SetUp() override {
    FamilyTest::SetUp();
    if (IsSkipped()) return;
    policy::Rule all = RuleFor({}, TPX_ACTION_PROXY);
    policy::Rule others = RuleFor({}, TPX_ACTION_DROP, TPX_FAIL_OPEN, {17});
    runner().Publish(PolicyOf({all, others}));
  }
  Packet Syn(std::string_view src, std::string_view dst) const {
    return Packet().Ip(src, dst).Tcp(kClientPort, kProxied).Syn();
  }
};
TPX_BOTH_FAMILIES(AddressOf);

TEST_P(AddressOf, P10_SendersThatCannotBeAreDropped) {
  for (const char* src :
       {f().server, f().loopback, f().unspecified, f().multicast, f().gateway, f().broadcast}) {
    EXPECT_EQ(Lan(Syn(src, f().server)), Leaves(TPX_R_MARTIAN)) << src;
  }
  EXPECT_EQ(Lan(Syn(f().client, f().server)), Leaves(TPX_R_RULE_PROXY));
}

TEST_P(AddressOf, P12_TheGatewaysOwnAddressesAreNeverSteered) {
  for (const char* dst : {f().gateway, f().broadcast}) {
    EXPECT_EQ(Lan(Syn(f().client, dst)), Leaves(TPX_R_OWN_ADDRESS)) << dst;
    EXPECT_EQ(Lan(Packet().Ip(f().client, dst).Tcp(1, 2).Ack()), Leaves(TPX_R_OWN_ADDRESS)) << dst;
    EXPECT_EQ(Lan(Packet().Ip(f().client, dst).Udp(1, 53)), Leaves(TPX_R_OWN_ADDRESS)) << dst;
    EXPECT_EQ(Wan(Packet().Ip(f().server, dst).Tcp(80, 1).Ack()), Leaves(TPX_R_OWN_ADDRESS)) << dst;
    EXPECT_EQ(Lan(Packet().Ip(f().client, dst).Fragment(64, true).Protocol(17).Payload(64)),
              Leaves(TPX_R_OWN_ADDRESS))
        << dst;
  }
}

TEST_P(AddressOf, P12_AnAddressIsOwnAsSoonAsItIsInTheMap) {
  EXPECT_EQ(Lan(Syn(f().client, f().other_server)), Leaves(TPX_R_RULE_PROXY));
  runner().AddLocal(Address(f().other_server));
  EXPECT_EQ(Lan(Syn(f().client, f().other_server)), Leaves(TPX_R_OWN_ADDRESS));
}

TEST_P(AddressOf, P13_TheListeningPortOfALocalAddressIsNoProxiedFlow) {
  Packet dialled = Packet().Ip(f().client, f().gateway).Tcp(kClientPort, runner().listen_port()).Syn();
  EXPECT_EQ(Lan(dialled), Leaves(TPX_R_OWN_ADDRESS));
}

TEST_P(AddressOf, SpecialDestinationsPass) {
  for (const char* dst : {f().loopback, f().unspecified, f().multicast, f().link_local, f().metadata}) {
    EXPECT_EQ(Lan(Syn(f().client, dst)), Leaves(TPX_R_SPECIAL_ADDRESS)) << dst;
    EXPECT_EQ(Lan(Packet().Ip(f().client, dst).Udp(1, 53)), Leaves(TPX_R_SPECIAL_ADDRESS)) << dst;
  }
}

TEST_P(AddressOf, NeighboursOfSpecialDestinationsAreOrdinary) {
  const std::vector<const char*> ordinary =
      v4() ? std::vector<const char*>{"1.0.0.0",         "126.255.255.255", "128.0.0.0",
                                      "223.255.255.255", "169.253.255.255", "169.255.0.0",
                                      "100.100.100.199", "100.100.100.201"}
           : std::vector<const char*>{"::2",           "2001:db8::",    "fe7f::1",         "fec0::1",
                                      "fd00:ec2::253", "fd00:ec2::255", "fd00:ec2:1::254", "feff::1"};
  for (const char* dst : ordinary) EXPECT_EQ(Lan(Syn(f().client, dst)), Leaves(TPX_R_RULE_PROXY)) << dst;
  const std::vector<const char*> special =
      v4() ? std::vector<const char*>{"0.255.255.255", "127.0.0.0",       "127.255.255.255",
                                      "224.0.0.0",     "255.255.255.255", "240.0.0.0",
                                      "169.254.0.0",   "169.254.169.254", "169.254.255.255"}
           : std::vector<const char*>{"fe80::", "febf:ffff::1", "ff00::", "ffff::1"};
  for (const char* dst : special) EXPECT_EQ(Lan(Syn(f().client, dst)), Leaves(TPX_R_SPECIAL_ADDRESS)) << dst;
}

}  // namespace
}  // namespace tpx::test
