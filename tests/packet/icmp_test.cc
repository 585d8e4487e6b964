// SPDX-License-Identifier: Apache-2.0
// ICMP errors reach the sockets they are about.
#include "support/connection.h"
#include "support/packet_fixture.h"

namespace tpx::test {
namespace {

class Icmp : public FamilyTest {
 protected:
  Connection Connect() const { return {{Address(f().client), 0}, {Address(f().server), kProxied}}; }
  // What the proxy's socket, which has the server's address, sent to the client.
  Packet Sent(const Connection& c) const {
    return Packet().Ip(f().server, f().client).Tcp(kProxied, c.client().port).Ack();
  }
  Packet Error(const Packet& quoted, size_t bytes = 8, uint8_t v4_type = 3, uint8_t v6_type = 2) const {
    return FromClient().Icmp(v4_type, v6_type).Quote(quoted, bytes);
  }
};
TPX_BOTH_FAMILIES(Icmp);

TEST_P(Icmp, P16_ErrorsAboutAConnectionOfOursAreSteered) {
  Connection connection = Connect();
  const std::pair<uint8_t, uint8_t> types[] = {{3, 1}, {4, 2}, {11, 3}, {12, 4}};
  for (auto [v4_type, v6_type] : types) {
    Packet error = Error(Sent(connection), 8, v4_type, v6_type);
    EXPECT_EQ(Lan(error), Leaves(TPX_R_ICMP_ERROR));
    EXPECT_EQ(Wan(error), Leaves(TPX_R_ICMP_ERROR));
  }
  EXPECT_EQ(Lan(Error(Sent(connection), 40)), Leaves(TPX_R_ICMP_ERROR));
  EXPECT_EQ(Lan(Error(Sent(connection), 4)), Leaves(TPX_R_ICMP_ERROR));
  connection.Abort();
  EXPECT_EQ(Lan(Error(Sent(connection))), Leaves(TPX_R_OTHER_PROTOCOL));
}

TEST_P(Icmp, P16_QuotedOptionsAreSkipped) {
  if (!v4()) GTEST_SKIP() << "the other family has no such header";
  Connection connection = Connect();
  EXPECT_EQ(Lan(Error(Sent(connection).Option({7, 7, 4, 0, 0, 0, 0}))), Leaves(TPX_R_ICMP_ERROR));
  connection.Abort();
}

TEST_P(Icmp, P16_EverythingElsePasses) {
  Connection connection = Connect();
  EXPECT_EQ(Lan(FromClient().Icmp(8, 128)), Leaves(TPX_R_OTHER_PROTOCOL)) << "echo request";
  EXPECT_EQ(Lan(FromClient().Icmp(0, 129)), Leaves(TPX_R_OTHER_PROTOCOL)) << "echo reply";
  EXPECT_EQ(Lan(FromClient().Icmp(5, 137).Quote(Sent(connection))), Leaves(TPX_R_OTHER_PROTOCOL))
      << "redirect";
  EXPECT_EQ(Lan(Error(Sent(connection), 3)), Leaves(TPX_R_OTHER_PROTOCOL)) << "ports are cut off";
  EXPECT_EQ(Lan(Error(Sent(connection).Version(5))), Leaves(TPX_R_OTHER_PROTOCOL));
  EXPECT_EQ(Lan(Error(Packet().Ip(f().server, f().client).Udp(1, 2))), Leaves(TPX_R_OTHER_PROTOCOL));
  EXPECT_EQ(Lan(Error(Packet().Ip(f().server, f().client).Protocol(132).Payload(20))),
            Leaves(TPX_R_OTHER_PROTOCOL));
  EXPECT_EQ(Lan(Error(Packet().Ip(f().server, f().client).Tcp(kProxied + 1, connection.client().port))),
            Leaves(TPX_R_OTHER_PROTOCOL))
      << "another connection";
  connection.Abort();
}

TEST_P(Icmp, P16_RulesDecideOverErrorsThatAreNotOurs) {
  Connection connection = Connect();
  runner().Publish(
      PolicyOf({RuleFor({}, TPX_ACTION_DROP, TPX_FAIL_OPEN, {static_cast<uint8_t>(v4() ? 1 : 58)})}));
  EXPECT_EQ(Lan(Error(Sent(connection))), Leaves(TPX_R_ICMP_ERROR));
  connection.Abort();
  EXPECT_EQ(Lan(Error(Sent(connection))), Leaves(TPX_R_RULE_DROP));
  EXPECT_EQ(Lan(FromClient().Icmp(8, 128)), Leaves(TPX_R_RULE_DROP));
}

TEST_P(Icmp, P16_ErrorsToTheGatewayItselfPass) {
  Packet error = Packet().Ip(f().client, f().gateway).Icmp(3, 1);
  error.Quote(Packet().Ip(f().gateway, f().client).Tcp(22, 40000).Ack());
  EXPECT_EQ(Lan(error), Leaves(TPX_R_OWN_ADDRESS));
  Packet multicast = Packet().Ip(f().client, f().multicast).Icmp(9, 135);
  EXPECT_EQ(Lan(multicast), Leaves(TPX_R_SPECIAL_ADDRESS)) << "router and neighbour discovery";
}

}  // namespace
}  // namespace tpx::test
