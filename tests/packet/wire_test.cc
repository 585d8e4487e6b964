// SPDX-License-Identifier: Apache-2.0
// What only a device can deliver: see support/wire.h.
#include "support/wire.h"

#include <chrono>
#include <memory>
#include <thread>

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

TEST_P(OnTheWire, P01_EveryTruncationIsLeftToTheStack) {
  Bytes syn = SynTo(kProxied).Build();
  for (size_t length = kEthernetBytes + 1; length < syn.size(); ++length) {
    wire().Send(Bytes(syn.begin(), syn.begin() + static_cast<ptrdiff_t>(length)));
    EXPECT_EQ(Counted(), Once("MALFORMED")) << length;
  }
  wire().Send(syn);
  EXPECT_EQ(Counted(), Once("RULE_PROXY"));
}

TEST_P(OnTheWire, P06_TagInTheMetadata) {
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

TEST_P(OnTheWire, P08_DevicesWithoutAnEthernetHeader) {
  Tunnel tunnel;
  UniqueFd link = AttachIngress(Tunnel::kDevice, runner().program_fd(Hook::kLan));
  tunnel.Send(SynTo(kProxied).Datagram());
  EXPECT_EQ(Counted(), Once("RULE_PROXY"));
  tunnel.Send(SynTo(kDropped).Datagram());
  EXPECT_EQ(Counted(), Once("RULE_DROP"));
  tunnel.Send(SynTo(kDropped).TransportBytes(10).Datagram());
  EXPECT_EQ(Counted(), Once("MALFORMED"));
}

}  // namespace
}  // namespace tpx::test
