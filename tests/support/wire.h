// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <optional>

#include "support/packet.h"
#include "tpx/base/unique_fd.h"

namespace tpx::test {

// A program attached to the ingress of a device, detached by the destructor.
UniqueFd AttachIngress(const char* device, int program_fd);

// The sk_lookup program in this network namespace.
UniqueFd AttachLookup(int program_fd);

// A veth pair in the network namespace: what Send puts on one end comes in at
// the other, kIngress, and what the stack answers there comes out of Receive.
// Needed for what a test run cannot make: damaged IP headers, tags in the
// packet's metadata, headers outside the linear part, segments to be cut later.
class Wire {
 public:
  static constexpr const char* kIngress = "tpxw1";
  // Hosts that live behind the wire.
  static constexpr const char* kHostV4 = "203.0.113.2";
  static constexpr const char* kHostV6 = "2001:db8:3::2";

  Wire();
  ~Wire();
  Wire(const Wire&) = delete;
  Wire& operator=(const Wire&) = delete;

  void Send(const Bytes& frame);
  // Only `linear_bytes` of the frame are in the linear part of the packet; the
  // kernel honours it for frames above 4 KiB. `segment_bytes`: a GSO packet of
  // TCP with such segments, whose headers are `header_bytes` long.
  void SendNonLinear(const Bytes& frame, uint16_t linear_bytes);
  void SendSegments(const Bytes& frame, bool v4, uint16_t header_bytes, uint16_t segment_bytes);
  // The same of UDP, whose header ends at `header_bytes`. Without segments only
  // the checksum is left to the device.
  void SendDatagrams(const Bytes& frame, uint16_t header_bytes, uint16_t segment_bytes);
  // The next frame that `wanted` accepts, or nothing within a second.
  std::optional<Bytes> Receive(const std::function<bool(const Bytes&)>& wanted);

 private:
  UniqueFd plain_, offload_;
};

// A layer-3 device (tun): what Send writes comes in as an IP packet without an Ethernet header.
class Tunnel {
 public:
  static constexpr const char* kDevice = "tpxt0";
  Tunnel();
  void Send(const Bytes& datagram);
  // The next ICMP error of unreachability that goes out there, or nothing within a second.
  std::optional<Bytes> Receive();

 private:
  UniqueFd fd_;
};

}  // namespace tpx::test
