// SPDX-License-Identifier: Apache-2.0
// What the parser makes of headers that are damaged, long or strange.
#include "support/packet_fixture.h"

namespace tpx::test {
namespace {

constexpr uint8_t kHopByHop = 0, kAuth = 51, kEsp = 50, kDestination = 60;

class Header : public FamilyTest {};
TPX_BOTH_FAMILIES(Header);

TEST_P(Header, P1_WrongVersionIsLeftToTheStack) {
  EXPECT_EQ(Lan(SynTo(kDropped).Version(v4() ? 6 : 4)), Leaves(TPX_R_MALFORMED));
}

TEST_P(Header, P1_LengthBeyondThePacketIsLeftToTheStack) {
  EXPECT_EQ(Lan(SynTo(kDropped).TotalLength(200)), Leaves(TPX_R_MALFORMED));
  EXPECT_EQ(Lan(SynTo(kDropped).TotalLength(0xffff)), Leaves(TPX_R_MALFORMED));
}

TEST_P(Header, P1_LengthThatEndsInsideTheTransportHeaderIsLeftToTheStack) {
  const uint16_t ip = v4() ? 20 : 0;
  for (uint16_t length : {4, 19}) {
    EXPECT_EQ(Lan(SynTo(kDropped).TotalLength(static_cast<uint16_t>(ip + length))), Leaves(TPX_R_MALFORMED));
  }
  EXPECT_EQ(Lan(SynTo(kDropped).TotalLength(static_cast<uint16_t>(ip + 20))), Leaves(TPX_R_RULE_DROP));
}

TEST_P(Header, P1_Ipv4LengthFieldsThatContradictAreLeftToTheStack) {
  if (!v4()) GTEST_SKIP() << "the other family has no such header";
  for (uint8_t words : {0, 1, 4}) {
    EXPECT_EQ(Lan(SynTo(kDropped).HeaderWords(words)), Leaves(TPX_R_MALFORMED)) << unsigned{words};
  }
  EXPECT_EQ(Lan(SynTo(kDropped).HeaderWords(15)), Leaves(TPX_R_MALFORMED));  // longer than the packet
  EXPECT_EQ(Lan(SynTo(kDropped).TotalLength(19)), Leaves(TPX_R_MALFORMED));
  EXPECT_EQ(Lan(SynTo(kDropped).TotalLength(0)), Leaves(TPX_R_MALFORMED));
}

TEST_P(Header, P1_EveryTruncationOfTheTransportHeaderIsLeftToTheStack) {
  Packet syn = SynTo(kDropped);
  size_t whole = syn.Build().size();
  for (size_t length = whole - 20; length < whole; ++length) {
    EXPECT_EQ(Lan(Packet(syn).Cut(length)), Leaves(TPX_R_MALFORMED)) << length;
    Packet shorter = Packet(syn).TransportBytes(length - (whole - 20));
    EXPECT_EQ(Lan(shorter), Leaves(TPX_R_MALFORMED)) << length;
  }
}

TEST_P(Header, P1_TcpHeaderLengthBelowTheMinimumIsLeftToTheStack) {
  for (uint8_t words = 0; words < 5; ++words) {
    EXPECT_EQ(Lan(SynTo(kDropped).DataOffset(words)), Leaves(TPX_R_MALFORMED)) << unsigned{words};
  }
}

TEST_P(Header, EthernetPaddingIsNoPartOfTheHeaders) {
  // 4 bytes of TCP, and padding that goes on as a SYN would.
  Packet short_tcp = SynTo(kProxied).TransportBytes(4);
  short_tcp.Padding({0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0});
  EXPECT_EQ(Lan(short_tcp), Leaves(TPX_R_MALFORMED));
}

TEST_P(Header, P2_Ipv4OptionsAreParsedAtTheirLength) {
  if (!v4()) GTEST_SKIP() << "the other family has no such header";
  const Bytes record_route = {7, 7, 4, 0, 0, 0, 0};
  EXPECT_EQ(Lan(SynTo(kProxied).Option(record_route)), Leaves(TPX_R_RULE_PROXY));
  EXPECT_EQ(Lan(SynTo(kDropped).Option(record_route)), Leaves(TPX_R_RULE_DROP));
  EXPECT_EQ(Lan(SynTo(kDropped).Option(Bytes(40, 1))), Leaves(TPX_R_RULE_DROP));     // 40 × no operation
  EXPECT_EQ(Lan(SynTo(kDropped).Option({0x94, 4, 0, 0})), Leaves(TPX_R_RULE_DROP));  // router alert
}

TEST_P(Header, P2_SourceRoutesAreDropped) {
  if (!v4()) GTEST_SKIP() << "the other family has no such header";
  for (uint8_t route : {uint8_t{0x83}, uint8_t{0x89}}) {
    const Bytes option = {route, 7, 4, 203, 0, 113, 1};
    EXPECT_EQ(Lan(SynTo(kBypassed).Option(option)), Leaves(TPX_R_SOURCE_ROUTED));
    EXPECT_EQ(Lan(SynTo(kBypassed).Option({1, 1, 1}).Option(option)), Leaves(TPX_R_SOURCE_ROUTED));
    EXPECT_EQ(Lan(FromClient().Option(option).Udp(1, 2)), Leaves(TPX_R_SOURCE_ROUTED));
    EXPECT_EQ(Lan(SynTo(kProxied).Option({0}).Option(option)), Leaves(TPX_R_RULE_PROXY))
        << "behind the end of the options";
  }
}

TEST_P(Header, P2_BrokenOptionsAreLeftToTheStack) {
  if (!v4()) GTEST_SKIP() << "the other family has no such header";
  EXPECT_EQ(Lan(SynTo(kDropped).Option({7, 0, 0, 0})), Leaves(TPX_R_MALFORMED));
  EXPECT_EQ(Lan(SynTo(kDropped).Option({7, 1, 0, 0})), Leaves(TPX_R_MALFORMED));
  EXPECT_EQ(Lan(SynTo(kDropped).Option({7, 5, 0, 0})), Leaves(TPX_R_MALFORMED));
  EXPECT_EQ(Lan(SynTo(kDropped).Option({1, 1, 1, 7})), Leaves(TPX_R_MALFORMED));
}

TEST_P(Header, P4_ExtensionHeadersAreWalked) {
  if (v4()) GTEST_SKIP() << "the other family has no such header";
  for (uint8_t type : {kHopByHop, kDestination, kAuth}) {
    for (size_t length : {8, 16, 64}) {
      Packet dropped = SynTo(kDropped).Extension(type, length);
      EXPECT_EQ(Lan(dropped), Leaves(TPX_R_RULE_DROP)) << unsigned{type} << " " << length;
    }
  }
  EXPECT_EQ(Lan(SynTo(kDropped).Extension(kAuth, 12)), Leaves(TPX_R_RULE_DROP));
  Packet mixed = SynTo(kProxied).Extension(kHopByHop).Extension(kDestination, 24).Extension(kAuth, 24);
  EXPECT_EQ(Lan(mixed), Leaves(TPX_R_RULE_PROXY));
}

TEST_P(Header, P4_SevenExtensionHeadersAreWalkedAndEightAreOutOfBounds) {
  if (v4()) GTEST_SKIP() << "the other family has no such header";
  Packet within = SynTo(kProxied), beyond = SynTo(kProxied);
  for (int i = 0; i < 7; ++i) within.Extension(kDestination);
  for (int i = 0; i < 8; ++i) beyond.Extension(kDestination);
  EXPECT_EQ(Lan(within), Leaves(TPX_R_RULE_PROXY));
  EXPECT_EQ(Lan(beyond), Leaves(TPX_R_HEADERS_DROPPED)) << "a rule may deny it: the ports are out of reach";
  runner().Publish(PolicyOf({RuleFor({kProxied}, TPX_ACTION_PROXY)}));
  EXPECT_EQ(Lan(beyond), Leaves(TPX_R_HEADERS_PASSED));
}

TEST_P(Header, P4_EndlessChainDoesNotEvadeARuleForOneProtocol) {
  if (v4()) GTEST_SKIP() << "the other family has no such header";
  for (uint8_t protocol : {6, 17}) {
    runner().Publish(PolicyOf({RuleFor({kDropped}, TPX_ACTION_DROP, TPX_FAIL_OPEN, {protocol})}));
    Packet chain = protocol == 6 ? SynTo(kDropped) : FromClient().Udp(1, kDropped);
    for (int i = 0; i < 12; ++i) chain.Extension(kDestination);
    EXPECT_EQ(Lan(chain), Leaves(TPX_R_HEADERS_DROPPED)) << unsigned{protocol};
  }
  policy::Rule all = {};
  runner().Publish(PolicyOf({all, RuleFor({kDropped}, TPX_ACTION_DROP)}));
  Packet chain = SynTo(kDropped);
  for (int i = 0; i < 12; ++i) chain.Extension(kDestination);
  EXPECT_EQ(Lan(chain), Leaves(TPX_R_HEADERS_PASSED)) << "an earlier rule bypasses everything";
}

TEST_P(Header, P4_TruncatedChainIsLeftToTheStack) {
  if (v4()) GTEST_SKIP() << "the other family has no such header";
  Packet chain = SynTo(kDropped).Extension(kHopByHop).Extension(kDestination, 2048);
  for (size_t length : {54u + 1, 54u + 7, 54u + 8, 54u + 8 + 7, 54u + 8 + 9, 54u + 8 + 2047}) {
    EXPECT_EQ(Lan(Packet(chain).TotalLength(static_cast<uint16_t>(length - 54)).Cut(length)),
              Leaves(TPX_R_MALFORMED))
        << length;
  }
}

TEST_P(Header, P4_RoutingHeaders) {
  if (v4()) GTEST_SKIP() << "the other family has no such header";
  EXPECT_EQ(Lan(SynTo(kBypassed).Routing(0, 0)), Leaves(TPX_R_SOURCE_ROUTED));
  EXPECT_EQ(Lan(SynTo(kBypassed).Routing(0, 1)), Leaves(TPX_R_SOURCE_ROUTED));
  for (uint8_t type : {2, 3, 4}) {
    EXPECT_EQ(Lan(SynTo(kDropped).Routing(type, 0)), Leaves(TPX_R_RULE_DROP)) << "route is used up";
    EXPECT_EQ(Lan(SynTo(kDropped).Routing(type, 1)), Leaves(TPX_R_HEADERS_DROPPED));
  }
}

TEST_P(Header, P4_EncryptedAndEmptyPayloadsAreOtherProtocols) {
  EXPECT_EQ(Lan(FromClient().Protocol(kEsp).Payload(16)), Leaves(TPX_R_OTHER_PROTOCOL));
  EXPECT_EQ(Lan(FromClient().NoNextHeader()), Leaves(TPX_R_OTHER_PROTOCOL));
}

TEST_P(Header, P6_TaggedPacketsAreLeftToTheVlanDevice) {
  EXPECT_EQ(Lan(SynTo(kProxied).Vlan(7)), Leaves(TPX_R_VLAN_TAGGED));
  EXPECT_EQ(Lan(SynTo(kProxied).Vlan(7, 0x88a8)), Leaves(TPX_R_VLAN_TAGGED));
  EXPECT_EQ(Lan(SynTo(kProxied).Vlan(7, 0x88a8).Vlan(8)), Leaves(TPX_R_VLAN_TAGGED));
  EXPECT_EQ(Lan(SynTo(kProxied).Vlan(0xe007)), Leaves(TPX_R_VLAN_TAGGED));
}

TEST_P(Header, P6_PriorityTagIsLookedThrough) {
  EXPECT_EQ(Lan(SynTo(kProxied).Vlan(0)), Leaves(TPX_R_RULE_PROXY));
  EXPECT_EQ(Lan(SynTo(kDropped).Vlan(0xe000)), Leaves(TPX_R_RULE_DROP));
  EXPECT_EQ(Lan(SynTo(kDropped).Vlan(0).Vlan(0)), Leaves(TPX_R_NOT_IP));
}

TEST_P(Header, P1_EveryTruncationBehindAPriorityTagIsLeftToTheStack) {
  // Behind a tag the kernel lets a test run have less than an IP header.
  Packet syn = SynTo(kProxied).Vlan(0);
  size_t whole = syn.Build().size();
  for (size_t length = kEthernetBytes + 1; length < whole; ++length) {
    EXPECT_EQ(Lan(Packet(syn).Cut(length)), Leaves(TPX_R_MALFORMED)) << length;
  }
}

TEST_P(Header, P9_ChecksumsDoNotMatter) {
  EXPECT_EQ(Lan(SynTo(kProxied).BadChecksums()), Leaves(TPX_R_RULE_PROXY));
  EXPECT_EQ(Lan(SynTo(kDropped).BadChecksums()), Leaves(TPX_R_RULE_DROP));
}

TEST_P(Header, SizeDoesNotMatter) {
  for (size_t payload : {0, 1, 1400, 3000}) {
    EXPECT_EQ(Lan(SynTo(kProxied).Payload(payload)), Leaves(TPX_R_RULE_PROXY)) << payload;
  }
}

TEST_P(Header, Ipv4AddressesInsideAnIpv6PacketAreMartians) {
  if (!v4()) GTEST_SKIP() << "the other family has no such header";
  EXPECT_EQ(Lan(SynTo(kBypassed).AsV6()), Leaves(TPX_R_MARTIAN));
  const Family& v6 = kFamilies[1];
  Packet mapped_src =
      Packet().Ip(Address(f().client), Address(v6.server)).AsV6().Tcp(kClientPort, kBypassed).Ack();
  Packet mapped_dst =
      Packet().Ip(Address(v6.client), Address(f().server)).AsV6().Tcp(kClientPort, kBypassed).Ack();
  EXPECT_EQ(Lan(mapped_src), Leaves(TPX_R_MARTIAN));
  EXPECT_EQ(Lan(mapped_dst), Leaves(TPX_R_MARTIAN));
}

class Frame : public PacketTest {};

TEST_F(Frame, P7_OtherEtherTypesPass) {
  // ARP, PPPoE, MPLS, LLDP, EAPOL, a length (802.3)
  for (uint16_t type : {0x0806, 0x8864, 0x8847, 0x88cc, 0x888e, 0x0100}) {
    EXPECT_EQ(Lan(Packet().EtherType(type).Payload(64)), Leaves(TPX_R_NOT_IP)) << std::hex << type;
    EXPECT_EQ(Wan(Packet().EtherType(type).Payload(64)), Leaves(TPX_R_NOT_IP)) << std::hex << type;
  }
}

}  // namespace
}  // namespace tpx::test
