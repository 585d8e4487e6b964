// SPDX-License-Identifier: Apache-2.0
// Datagrams from the WAN and ICMP errors about datagrams: the socket that has borrowed the address is their
// owner.
#include <netinet/in.h>
#include <sys/socket.h>

#include "support/check.h"
#include "support/connection.h"
#include "support/packet_fixture.h"
#include "support/wire.h"

namespace tpx::test {
namespace {

class UdpOwner : public DatagramTest {
 protected:
  Packet Answer(uint16_t port, uint16_t sport = kPreserved) const {
    return Packet().Ip(f().server, f().client).Udp(sport, port).Payload(32);
  }
  Packet Error(const Packet& quoted, size_t bytes = 8, uint8_t v4_type = 3, uint8_t v6_type = 1) const {
    return FromClient().Icmp(v4_type, v6_type).Quote(quoted, bytes);
  }
  // As the proxy's socket that has the server's address would have sent it.
  Packet FromServer(uint16_t sport) const {
    return Packet().Ip(f().server, f().client).Udp(sport, kClientPort).Payload(32);
  }
};
TPX_BOTH_FAMILIES(UdpOwner);

TEST_P(UdpOwner, AnswersToAPreservedClientAreSteeredFromTheWan) {
  EXPECT_EQ(Wan(Answer(kClientPort)), Leaves(TPX_R_WAN));
  UniqueFd upstream = DatagramSocket(Client(), kOwnMark);
  EXPECT_EQ(Wan(Answer(kClientPort)), Leaves(TPX_R_ESTABLISHED));
  EXPECT_EQ(Wan(Answer(kClientPort, 9)), Leaves(TPX_R_ESTABLISHED)) << "anybody may answer";
  EXPECT_EQ(Wan(Answer(kClientPort + 1)), Leaves(TPX_R_WAN));
  EXPECT_EQ(Wan(Packet().Ip(f().client, f().server).Udp(1, kClientPort)), Leaves(TPX_R_WAN));
  ConnectTo(upstream, Server(kPreserved));
  EXPECT_EQ(Wan(Answer(kClientPort)), Leaves(TPX_R_ESTABLISHED));
  EXPECT_EQ(Wan(Answer(kClientPort, 9)), Leaves(TPX_R_WAN)) << "another port than it is connected to";
  upstream.Reset();
  EXPECT_EQ(Wan(Answer(kClientPort)), Leaves(TPX_R_WAN));
}

TEST_P(UdpOwner, S8_ASocketThatAnswersClientsTakesNothingFromTheWan) {
  UniqueFd reply = DatagramSocket(Client(), kSteerMark);  // a server among the clients
  EXPECT_EQ(Wan(Answer(kClientPort)), Leaves(TPX_R_WAN));
}

TEST_P(UdpOwner, ASocketOfSomebodyElseTakesNothingFromTheWan) {
  UniqueFd foreign = DatagramSocket(Client());
  EXPECT_EQ(Wan(Answer(kClientPort)), Leaves(TPX_R_WAN));
}

TEST_P(UdpOwner, ASocketOfOneFamilyOwnsToo) {
  if (!v4()) GTEST_SKIP() << "the other family's sockets are in all tests";
  UniqueFd upstream(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_in at{};
  at.sin_family = AF_INET;
  at.sin_port = htons(kClientPort);
  at.sin_addr.s_addr = Address(f().client).raw.w[3];
  TPX_PCHECK(setsockopt(upstream.get(), SOL_SOCKET, SO_MARK, &kOwnMark, sizeof(kOwnMark)) == 0);
  TPX_PCHECK(bind(upstream.get(), reinterpret_cast<sockaddr*>(&at), sizeof(at)) == 0);
  EXPECT_EQ(Wan(Answer(kClientPort)), Leaves(TPX_R_ESTABLISHED));
}

TEST_P(UdpOwner, WhoListensOnEveryAddressOwnsNothingOfOthers) {
  UniqueFd service = DatagramSocket({.addr = {}, .port = kClientPort});
  EXPECT_EQ(Wan(Answer(kClientPort)), Leaves(TPX_R_WAN));
  EXPECT_EQ(Wan(Answer(runner().listen_port())), Leaves(TPX_R_WAN)) << "nor do the workers' listeners";
  EXPECT_EQ(Lan(Error(FromServer(runner().listen_port()))), Leaves(TPX_R_OTHER_PROTOCOL));
}

TEST_P(UdpOwner, TheOwnerIsAskedBeforeTheProgramOfTheLookup) {
  // The rules would give the datagram to a listener, or refuse it.
  UniqueFd lookup = AttachLookup(runner().lookup_fd());
  for (auto action : {TPX_ACTION_PROXY, TPX_ACTION_DROP}) {
    runner().Publish(PolicyOf({RuleFor({}, action, TPX_FAIL_OPEN, {kUdp})}));
    UniqueFd upstream = DatagramSocket(Client(), kOwnMark);
    EXPECT_EQ(Wan(Answer(kClientPort)), Leaves(TPX_R_ESTABLISHED));
    EXPECT_EQ(Wan(Answer(kClientPort + 1)), Leaves(TPX_R_WAN));
  }
}

TEST_P(UdpOwner, FragmentedAnswersAreSteeredFromTheWan) {
  UniqueFd upstream = DatagramSocket(Client(), kOwnMark);
  auto from_server = [&] { return Packet().Ip(f().server, f().client); };
  Packet later = from_server().Fragment(64, false, 2).Protocol(kUdp).Payload(64);
  EXPECT_EQ(Wan(later), Leaves(TPX_R_FRAG_PASSED)) << "nothing is known of it";
  EXPECT_EQ(Wan(from_server().Fragment(0, true, 1).Udp(1, kClientPort).Payload(56)),
            Leaves(TPX_R_ESTABLISHED));
  EXPECT_EQ(Wan(from_server().Fragment(64, false, 1).Protocol(kUdp).Payload(64)), Leaves(TPX_R_FRAG_STEERED));
  EXPECT_EQ(Wan(later), Leaves(TPX_R_FRAG_AHEAD));
}

TEST_P(UdpOwner, P16_ErrorsAboutDatagramsOfOursAreSteered) {
  UniqueFd reply = DatagramSocket(Server(kProxied), kSteerMark);
  const std::pair<uint8_t, uint8_t> types[] = {{3, 1}, {4, 2}, {11, 3}, {12, 4}};
  for (auto [v4_type, v6_type] : types) {
    Packet error = Error(FromServer(kProxied), 8, v4_type, v6_type);
    EXPECT_EQ(Lan(error), Leaves(TPX_R_ICMP_ERROR));
    EXPECT_EQ(Wan(error), Leaves(TPX_R_OTHER_PROTOCOL)) << "clients are on the other side";
  }
  EXPECT_EQ(Lan(Error(FromServer(kProxied), 40)), Leaves(TPX_R_ICMP_ERROR));
  EXPECT_EQ(Lan(Error(FromServer(kProxied), 4)), Leaves(TPX_R_ICMP_ERROR));
  EXPECT_EQ(Lan(Error(FromServer(kProxied), 3)), Leaves(TPX_R_OTHER_PROTOCOL)) << "ports are cut off";
  EXPECT_EQ(Lan(Error(FromServer(kProxied + 1))), Leaves(TPX_R_OTHER_PROTOCOL)) << "another port";
  EXPECT_EQ(Lan(Error(Packet().Ip(f().server, f().client).Tcp(kProxied, kClientPort))),
            Leaves(TPX_R_OTHER_PROTOCOL))
      << "another protocol";
  reply.Reset();
  EXPECT_EQ(Lan(Error(FromServer(kProxied))), Leaves(TPX_R_OTHER_PROTOCOL));
}

TEST_P(UdpOwner, P16_ErrorsAboutAPreservedClientAreSteeredFromTheWan) {
  UniqueFd upstream = DatagramSocket(Client(), kOwnMark);
  Packet error = Packet().Ip(f().other_server, f().client).Icmp(3, 1).Quote(To(kPreserved));
  EXPECT_EQ(Wan(error), Leaves(TPX_R_ICMP_ERROR)) << "from a router on the way";
}

TEST_P(UdpOwner, P16_TheLookupOfAnErrorPassesOnce) {
  UniqueFd reply = DatagramSocket(Server(kProxied), kSteerMark);
  Lan(To(kProxied));
  EXPECT_EQ(runner().Lookup(Flow(kProxied)).reason, TPX_R_LK_STEERED);
  EXPECT_EQ(Lan(Error(FromServer(kProxied))), Leaves(TPX_R_ICMP_ERROR));
  EXPECT_EQ(runner().Lookup(Flow(kProxied)), Found(TPX_R_LK_NOT_OURS));
  EXPECT_EQ(runner().Lookup(Flow(kProxied)).reason, TPX_R_LK_STEERED);
}

TEST_P(UdpOwner, P16_ErrorsAboutADirectFlowAreNot) {
  UniqueFd reply = DatagramSocket(Server(kBypassed), kSteerMark);  // of another client's flow
  EXPECT_EQ(Lan(Error(FromServer(kBypassed))), Leaves(TPX_R_ICMP_ERROR));
  EXPECT_EQ(Lan(To(kBypassed)), Leaves(TPX_R_RULE_BYPASS));
  EXPECT_EQ(Lan(Error(FromServer(kBypassed))), Leaves(TPX_R_OTHER_PROTOCOL));
}

}  // namespace
}  // namespace tpx::test
