// SPDX-License-Identifier: Apache-2.0
#include "trial_frame.h"

#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <netinet/in.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <span>

namespace tpx::control {
namespace {

using Bytes = std::vector<std::byte>;

constexpr uint8_t kHops = 64;

void Put8(Bytes& to, uint8_t value) { to.push_back(static_cast<std::byte>(value)); }

void Put16(Bytes& to, uint16_t value) {
  Put8(to, static_cast<uint8_t>(value >> 8));
  Put8(to, static_cast<uint8_t>(value));
}

void Set16(Bytes& in, size_t at, uint16_t value) {
  in[at] = static_cast<std::byte>(value >> 8);
  in[at + 1] = static_cast<std::byte>(value);
}

void PutAddress(Bytes& to, const IpAddr& addr) {
  const auto whole = std::as_bytes(std::span(addr.raw.w));
  const auto used = addr.is_v4() ? whole.last(4) : whole;
  to.insert(to.end(), used.begin(), used.end());
}

// RFC 1071, of an even number of bytes.
uint16_t Checksum(const Bytes& bytes) {
  uint32_t sum = 0;
  for (size_t i = 0; i + 1 < bytes.size(); i += 2)
    sum += std::to_integer<uint32_t>(bytes[i]) << 8 | std::to_integer<uint32_t>(bytes[i + 1]);
  while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<uint16_t>(~sum);
}

bool IsV4(const TrialFlow& flow) { return flow.dst.addr.is_v4(); }

uint8_t ProtocolOf(const TrialFlow& flow) {
  return flow.proto == IPPROTO_ICMP && !IsV4(flow) ? static_cast<uint8_t>(IPPROTO_ICMPV6) : flow.proto;
}

struct Transport {
  Bytes header;
  std::optional<size_t> checksum_at{};
};

Transport TransportOf(const TrialFlow& flow) {
  Bytes header;
  if (flow.proto == IPPROTO_ICMP) {
    Put8(header, IsV4(flow) ? 8 : 128);  // echo request
    header.resize(8);
    return {header, 2};
  }
  if (!flow.has_ports()) return {Bytes(8)};
  Put16(header, flow.src.port);
  Put16(header, flow.dst.port);
  if (flow.proto == IPPROTO_UDP) {
    Put16(header, 8);
    header.resize(8);
    return {header, 6};
  }
  header.resize(12);
  Put16(header, 5 << 12 | 0x02);  // five words, SYN
  Put16(header, 64000);           // window
  header.resize(20);
  return {header, 16};
}

// ICMP of IPv4 has no pseudo header.
uint16_t TransportChecksum(const TrialFlow& flow, const Bytes& header) {
  Bytes summed;
  if (ProtocolOf(flow) != IPPROTO_ICMP) {
    PutAddress(summed, flow.src.addr);
    PutAddress(summed, flow.dst.addr);
    Put16(summed, static_cast<uint16_t>(header.size()));
    Put16(summed, ProtocolOf(flow));
  }
  summed.insert(summed.end(), header.begin(), header.end());
  const uint16_t checksum = Checksum(summed);
  return checksum == 0 && flow.proto == IPPROTO_UDP ? 0xffff : checksum;
}

Bytes HeaderV4(const TrialFlow& flow, size_t payload) {
  Bytes header;
  Put16(header, static_cast<uint16_t>(0x4500 | flow.dscp << 2));
  Put16(header, static_cast<uint16_t>(20 + payload));
  Put16(header, 0);
  Put16(header, 0x4000);  // do not fragment
  Put8(header, kHops);
  Put8(header, ProtocolOf(flow));
  Put16(header, 0);
  PutAddress(header, flow.src.addr);
  PutAddress(header, flow.dst.addr);
  Set16(header, 10, Checksum(header));
  return header;
}

Bytes HeaderV6(const TrialFlow& flow, size_t payload) {
  Bytes header;
  Put16(header, static_cast<uint16_t>(0x6000 | flow.dscp << 6));
  Put16(header, 0);
  Put16(header, static_cast<uint16_t>(payload));
  Put8(header, ProtocolOf(flow));
  Put8(header, kHops);
  PutAddress(header, flow.src.addr);
  PutAddress(header, flow.dst.addr);
  return header;
}

}  // namespace

std::vector<std::byte> BuildTrialFrame(const TrialFlow& flow) {
  Transport transport = TransportOf(flow);
  if (transport.checksum_at)
    Set16(transport.header, *transport.checksum_at, TransportChecksum(flow, transport.header));
  const size_t payload = transport.header.size();
  const Bytes network = IsV4(flow) ? HeaderV4(flow, payload) : HeaderV6(flow, payload);
  Bytes frame(ETH_ALEN);
  for (const uint8_t byte : flow.mac) Put8(frame, byte);
  Put16(frame, IsV4(flow) ? ETH_P_IP : ETH_P_IPV6);
  frame.insert(frame.end(), network.begin(), network.end());
  frame.insert(frame.end(), transport.header.begin(), transport.header.end());
  return frame;
}

tpx_flow KeyOf(const TrialFlow& flow) {
  return {.src = flow.src.addr.raw,
          .dst = flow.dst.addr.raw,
          .sport = htons(flow.src.port),
          .dport = htons(flow.dst.port),
          .proto = ProtocolOf(flow),
          .pad = {}};
}

}  // namespace tpx::control
