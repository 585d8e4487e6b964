// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "support/packet_fixture.h"

namespace tpx::test {

// Two devices and what lies behind the one that packets leave by: the cast of the tests of what tc forwards.
class FibTest : public FamilyTest {
 protected:
  static constexpr uint32_t kIn = 5001, kOut = 5002;
  // Of the device that packets come in by, of the one they leave by, of the next hop, and of
  // far_client().
  static constexpr policy::MacAddress kInMac = {0x00, 0x53, 0x00, 0x00, 0x00, 0x01};
  static constexpr policy::MacAddress kOutMac = {0x00, 0x53, 0x00, 0x00, 0x00, 0x02};
  static constexpr policy::MacAddress kHopMac = {0x00, 0x53, 0x00, 0x00, 0x00, 0x03};
  static constexpr policy::MacAddress kClientMac = {0x00, 0x53, 0x00, 0x00, 0x00, 0x04};

  static void SetUpTestSuite() {
    if (!ProgRunner::Privileged()) return;
    SharedRunner();
    Shell(
        "ip link add in0 index 5001 address 00:53:00:00:00:01 type veth peer name in1 && "
        "ip link add out0 index 5002 address 00:53:00:00:00:02 mtu 1400 type veth peer name out1 && "
        "ip link set in1 up && ip link set out1 up && ip link set in0 up && ip link set out0 up");
    Shell("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
    Shell(
        "ip addr add 203.0.113.1/29 dev out0 && ip addr add 2001:db8:3::1/120 dev out0 nodad && "
        "ip neigh add 203.0.113.2 lladdr 00:53:00:00:00:03 dev out0 && "
        "ip neigh add 2001:db8:3::2 lladdr 00:53:00:00:00:03 dev out0");
    Shell(
        "ip route add 203.0.113.128/28 via 203.0.113.2 && ip route add 2001:db8:3:1::/64 via 2001:db8:3::2 "
        "&& "
        "ip route add 203.0.113.144/28 dev in0 && ip route add 2001:db8:3:2::/64 dev in0");
    Shell(
        "ip route add 192.0.2.0/24 dev in0 && ip route add 2001:db8:1::/64 dev in0 && "
        "ip neigh add 192.0.2.66 lladdr 00:53:00:00:00:04 dev in0 && "
        "ip neigh add 2001:db8:1::66 lladdr 00:53:00:00:00:04 dev in0");
  }
  static void TearDownTestSuite() {
    if (ProgRunner::Privileged()) Shell("ip link del in0 && ip link del out0");
  }

  // f().client is this machine itself.
  const char* far_client() const { return v4() ? "192.0.2.66" : "2001:db8:1::66"; }
  const char* far_server() const { return v4() ? "203.0.113.130" : "2001:db8:3:1::2"; }
  const char* behind_itself() const { return v4() ? "203.0.113.146" : "2001:db8:3:2::2"; }
  const char* no_neighbour() const { return v4() ? "203.0.113.3" : "2001:db8:3::3"; }
  Packet To(const char* where) const { return Packet().Ip(f().client, where); }

  // As a device has it that packets come in or leave by.
  static Bytes FrameTo(const policy::MacAddress& mac, const Packet& packet) {
    Bytes frame = packet.Build();
    std::copy(mac.begin(), mac.end(), frame.begin());
    return frame;
  }
  static Bytes FrameOf(const policy::MacAddress& from, const policy::MacAddress& to, const Packet& packet) {
    Bytes frame = FrameTo(to, packet);
    std::copy(from.begin(), from.end(), frame.begin() + 6);
    return frame;
  }
};

}  // namespace tpx::test
