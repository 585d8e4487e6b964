// SPDX-License-Identifier: Apache-2.0
// What only a device can deliver: see support/wire.h.
#include "support/wire.h"

#include <netinet/in.h>
#include <netinet/udp.h>
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <chrono>
#include <memory>
#include <thread>

#include "support/connection.h"
#include "support/packet_fixture.h"

namespace tpx::test {
namespace {

class OnTheWire : public FamilyTest {
 protected:
  void SetUp() override {
    FamilyTest::SetUp();
    if (IsSkipped()) return;
    wire_ = std::make_unique<Wire>();
    link_ = AttachIngress(Wire::kIngress, runner().program_fd(Hook::kLan));
    Counted();
  }

  Wire& wire() { return *wire_; }

  // The reasons that were counted for what was sent; neighbour discovery of the
  // devices themselves is not.
  static std::vector<std::string_view> Counted() {
    std::vector<std::string_view> reasons;
    for (int i = 0; i < 200 && reasons.empty(); ++i) {
      auto counts = runner().TakeCounts();
      for (int reason = 0; reason < TPX_REASON_COUNT; ++reason) {
        if (reason == TPX_R_SPECIAL_ADDRESS) continue;
        reasons.insert(reasons.end(), counts[static_cast<size_t>(reason)], ReasonName(reason));
      }
      if (reasons.empty()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return reasons;
  }
  static std::vector<std::string_view> Once(std::string_view reason) { return {reason}; }

 private:
  std::unique_ptr<Wire> wire_;
  UniqueFd link_;
};
TPX_BOTH_FAMILIES(OnTheWire);

TEST_P(OnTheWire, P1_EveryTruncationIsLeftToTheStack) {
  Bytes syn = SynTo(kProxied).Build();
  for (size_t length = kEthernetBytes + 1; length < syn.size(); ++length) {
    wire().Send(Bytes(syn.begin(), syn.begin() + static_cast<ptrdiff_t>(length)));
    EXPECT_EQ(Counted(), Once("MALFORMED")) << length;
  }
  wire().Send(syn);
  EXPECT_EQ(Counted(), Once("RULE_PROXY"));
}

TEST_P(OnTheWire, P6_TagInTheMetadata) {
  wire().Send(SynTo(kProxied).Vlan(7).Build());
  EXPECT_EQ(Counted(), Once("VLAN_TAGGED"));
  wire().Send(SynTo(kProxied).Vlan(0xe000).Build());
  EXPECT_EQ(Counted(), Once("RULE_PROXY")) << "priority only";
  wire().Send(SynTo(kProxied).Vlan(0).Vlan(7).Build());
  EXPECT_EQ(Counted(), Once("VLAN_TAGGED"));
  wire().Send(SynTo(kProxied).Vlan(7, 0x88a8).Vlan(8).Build());
  EXPECT_EQ(Counted(), Once("VLAN_TAGGED"));
}

TEST_P(OnTheWire, P14_HeadersOutsideTheLinearPart) {
  Packet syn = SynTo(kProxied).Payload(6000), dropped = SynTo(kDropped).Payload(6000);
  for (uint16_t linear : {14, 20, 34, 50, 54, 60, 74, 100}) {
    wire().SendNonLinear(syn.Build(), linear);
    EXPECT_EQ(Counted(), Once("RULE_PROXY")) << linear;
    wire().SendNonLinear(dropped.Build(), linear);
    EXPECT_EQ(Counted(), Once("RULE_DROP")) << linear;
  }
}

TEST_P(OnTheWire, P14_OptionsAndExtensionsOutsideTheLinearPart) {
  Packet syn = SynTo(kDropped).Payload(6000);
  v4() ? syn.Option(Bytes(40, 1)) : syn.Extension(0, 64).Extension(60, 256).Extension(60, 512);
  for (uint16_t linear : {14, 40, 60, 200}) {
    wire().SendNonLinear(syn.Build(), linear);
    EXPECT_EQ(Counted(), Once("RULE_DROP")) << linear;
  }
}

TEST_P(OnTheWire, P14_SegmentsToBeCutLater) {
  Packet data = FromClient().Tcp(kClientPort, kProxied).Ack().Payload(40'000);
  Packet syn = SynTo(kDropped).Payload(40'000);
  const auto headers = static_cast<uint16_t>(kEthernetBytes + (v4() ? 20 : 40) + 20);
  wire().SendSegments(data.Build(), v4(), headers, 1400);
  EXPECT_EQ(Counted(), Once("DIRECT"));
  wire().SendSegments(syn.Build(), v4(), headers, 1400);
  EXPECT_EQ(Counted(), Once("RULE_DROP"));
}

TEST_P(OnTheWire, ARefusedSynComesBackAsReset) {
  wire().Send(SynTo(kRejected).Build());
  EXPECT_EQ(Counted(), Once("RULE_REJECT"));
  const size_t flags = kEthernetBytes + (v4() ? 20 : 40) + 13;
  auto reset =
      wire().Receive([&](const Bytes& frame) { return frame.size() == flags + 7 && frame[flags] == 0x14; });
  ASSERT_TRUE(reset.has_value());
  EXPECT_TRUE(ChecksumsHold(*reset));
}

class DatagramsOnTheWire : public OnTheWire {
 protected:
  static constexpr uint8_t kUdp = 17;

  void SetUp() override {
    OnTheWire::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    runner().StartWorkers(1);
    runner().Publish(PolicyOf({RuleFor({kProxied}, TPX_ACTION_PROXY, TPX_FAIL_OPEN, {kUdp}),
                               RuleFor({kRejected}, TPX_ACTION_REJECT, TPX_FAIL_OPEN, {kUdp})}));
  }

  size_t ip_bytes() const { return v4() ? 20 : 40; }
  uint16_t header_bytes() const { return static_cast<uint16_t>(kEthernetBytes + ip_bytes() + 8); }
  const char* host() const { return v4() ? Wire::kHostV4 : Wire::kHostV6; }
  Packet FromHost(uint16_t dport) const { return Packet().Ip(host(), f().server).Udp(kClientPort, dport); }
  std::optional<Bytes> ReceiveUnreachable() {
    return wire().Receive([&](const Bytes& frame) {
      return frame.size() == kEthernetBytes + 2 * ip_bytes() + 16 &&
             frame[kEthernetBytes + ip_bytes()] == (v4() ? 3 : 1);
    });
  }
  // Bytes of the next datagram, or the error that the socket has; -EAGAIN after a second.
  static ssize_t ReceiveAt(int fd) {
    pollfd ready{.fd = fd, .events = POLLIN, .revents = 0};
    if (poll(&ready, 1, 1000) != 1) return -EAGAIN;
    char bytes[65536];
    ssize_t length = recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT);
    return length < 0 ? -errno : length;
  }
};
TPX_BOTH_FAMILIES(DatagramsOnTheWire);

TEST_P(DatagramsOnTheWire, ARefusedDatagramComesBackAsPortUnreachable) {
  wire().Send(FromHost(kRejected).Payload(100).Build());
  EXPECT_EQ(Counted(), Once("RULE_REJECT"));
  auto answer = ReceiveUnreachable();
  ASSERT_TRUE(answer.has_value());
  EXPECT_TRUE(ChecksumsHold(*answer));
}

TEST_P(DatagramsOnTheWire, ARefusedDatagramWhoseChecksumIsLeftToTheDevice) {
  for (size_t payload : {0, 5, 1000}) {
    wire().SendDatagrams(FromHost(kRejected).Payload(payload).UnfinishedChecksum().Build(), header_bytes(),
                         0);
    EXPECT_EQ(Counted(), Once("RULE_REJECT"));
    auto answer = ReceiveUnreachable();
    ASSERT_TRUE(answer.has_value()) << payload;
    EXPECT_TRUE(ChecksumsHold(*answer)) << payload;
    EXPECT_TRUE(ChecksumIsFinal(*answer)) << payload;
  }
}

TEST_P(DatagramsOnTheWire, ARefusedTrainOfDatagramsIsAnsweredOnce) {
  // Whatever stands for its checksum.
  for (bool pseudo : {true, false}) {
    Packet train = FromHost(kRejected).Payload(30'000);
    if (pseudo) train.UnfinishedChecksum();
    wire().SendDatagrams(train.Build(), header_bytes(), 1200);
    EXPECT_EQ(Counted(), Once("RULE_REJECT"));
    auto answer = ReceiveUnreachable();
    ASSERT_TRUE(answer.has_value());
    EXPECT_TRUE(ChecksumsHold(*answer));
    EXPECT_TRUE(ChecksumIsFinal(*answer));
  }
}

TEST_P(DatagramsOnTheWire, HeadersOutsideTheLinearPart) {
  for (uint16_t linear : {14, 20, 34, 38, 42, 54, 62}) {
    runner().ForgetFlows();
    wire().SendNonLinear(FromHost(kProxied).Payload(6000).Build(), linear);
    EXPECT_EQ(Counted(), Once("RULE_PROXY")) << linear;
    wire().SendNonLinear(FromHost(kRejected).Payload(6000).Build(), linear);
    EXPECT_EQ(Counted(), Once("RULE_REJECT")) << linear;
    auto answer = ReceiveUnreachable();
    ASSERT_TRUE(answer.has_value()) << linear;
    EXPECT_TRUE(ChecksumsHold(*answer)) << linear;
  }
}

TEST_P(DatagramsOnTheWire, P16_AnErrorReachesTheSocketThatSpokeForTheServer) {
  UniqueFd lookup = AttachLookup(runner().lookup_fd());
  UniqueFd reply = DatagramSocket({Address(f().server), kProxied}, kSteerMark);
  const int one = 1, listener = runner().listener_fd(0, TPX_LISTENER_UDP_MASQUERADE);
  const int level = v4() ? +SOL_IP : +SOL_IPV6, option = v4() ? +IP_RECVERR : +IPV6_RECVERR;
  ASSERT_EQ(setsockopt(reply.get(), level, option, &one, sizeof(one)), 0);
  Packet sent = Packet().Ip(f().server, host()).Udp(kProxied, kClientPort).Payload(32);
  Packet error = Packet().Ip(host(), f().server).Icmp(3, 1).Code(v4() ? 3 : 4).Quote(sent);
  for (int round = 0; round < 2; ++round) {
    wire().Send(FromHost(kProxied).Payload(32).Build());
    EXPECT_EQ(ReceiveAt(listener), 32) << "not the socket that is bound to the server's address";
    wire().Send(error.Build());
    EXPECT_EQ(ReceiveAt(reply.get()), -ECONNREFUSED);
  }
}

TEST_P(DatagramsOnTheWire, GatheredDatagramsAreOneFlow) {
  // With UDP_GRO at the listener the lookup also runs before tc.
  UniqueFd lookup = AttachLookup(runner().lookup_fd());
  const int one = 1, listener = runner().listener_fd(0, TPX_LISTENER_UDP_MASQUERADE);
  ASSERT_EQ(setsockopt(listener, SOL_UDP, UDP_GRO, &one, sizeof(one)), 0);
  Shell(std::string("ethtool -K ") + Wire::kIngress + " gro on >/dev/null 2>&1 || true");
  const uint64_t hits = runner().RuleHits(runner().generation(), 0);
  size_t received = 0;
  for (int i = 0; i < 20; ++i) wire().Send(FromHost(kProxied).Payload(100).Build());
  while (received < 2000) {
    const ssize_t length = ReceiveAt(listener);
    ASSERT_GT(length, 0) << "after " << received;
    received += static_cast<size_t>(length);
  }
  EXPECT_EQ(received, 2000u);
  EXPECT_EQ(runner().RuleHits(runner().generation(), 0), hits + 1);
}

TEST_P(OnTheWire, P8_DevicesWithoutAnEthernetHeader) {
  Tunnel tunnel;
  runner().control().headerless = 1;
  UniqueFd link = AttachIngress(Tunnel::kDevice, runner().program_fd(Hook::kLan));
  tunnel.Send(SynTo(kProxied).Datagram());
  EXPECT_EQ(Counted(), Once("RULE_PROXY"));
  tunnel.Send(SynTo(kDropped).Datagram());
  EXPECT_EQ(Counted(), Once("RULE_DROP"));
  runner().Publish(PolicyOf({RuleFor({kRejected}, TPX_ACTION_REJECT, TPX_FAIL_OPEN, {17})}));
  tunnel.Send(FromClient().Udp(1, kRejected).Payload(32).Datagram());
  EXPECT_EQ(Counted(), Once("RULE_REJECT"));
  auto answer = tunnel.Receive();
  ASSERT_TRUE(answer.has_value());
  const Bytes ethernet = SynTo(1).Build();
  answer->insert(answer->begin(), ethernet.begin(), ethernet.begin() + kEthernetBytes);
  EXPECT_EQ(answer->size(), kEthernetBytes + (v4() ? 56u : 96u));
  EXPECT_TRUE(ChecksumsHold(*answer));
  tunnel.Send(SynTo(kDropped).TransportBytes(10).Datagram());
  EXPECT_EQ(Counted(), Once("MALFORMED"));
  // A source whose bytes look like the end of an Ethernet header, and what follows like an IP header.
  const char* source = v4() ? "8.0.69.0" : "2001:db8:86dd:6000::1";
  runner().Publish(PolicyOf({RuleFor({kDropped}, TPX_ACTION_DROP)}));
  tunnel.Send(Packet().Ip(source, f().server).Tcp(kClientPort, kDropped).Syn().Datagram());
  EXPECT_EQ(Counted(), Once("RULE_DROP"));
}

}  // namespace
}  // namespace tpx::test
