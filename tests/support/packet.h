// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "tpx/base/address.h"

// Packets written as sentences, for the tests of the BPF programs:
//
//   Packet().Ip("192.0.2.2", "198.51.100.7").Tcp(40000, 443).Syn().Build()
//
// One sentence serves both families: the addresses say which one it is. Lengths
// and the IPv4 header's checksum are computed by Build, unless the sentence lies on purpose.
namespace tpx::test {

using Bytes = std::vector<uint8_t>;

inline constexpr size_t kEthernetBytes = 14;

enum class TcpFlag : uint8_t { kFin = 1, kSyn = 2, kRst = 4, kPsh = 8, kAck = 16, kUrg = 32 };

class Packet {
 public:
  Packet& Vlan(uint16_t tci, uint16_t ethertype = 0x8100);
  Packet& EtherType(uint16_t type);  // nothing else is built behind the Ethernet header

  Packet& Ip(std::string_view src, std::string_view dst);
  Packet& Ip(const IpAddr& src, const IpAddr& dst);
  // Forces the IPv6 header, also for IPv4-mapped addresses.
  Packet& AsV6();
  Packet& HopLimit(uint8_t hops);       // 64 where nothing is said
  Packet& Option(const Bytes& option);  // IPv4
  Packet& DontFragment();               // IPv4; nothing for IPv6
  Packet& Extension(uint8_t type,
                    size_t length_bytes = 8);            // IPv6: hop-by-hop (0), destination (60), AH (51)
  Packet& Routing(uint8_t type, uint8_t segments_left);  // IPv6
  Packet& NoNextHeader();                                // IPv6
  // A fragment which starts `offset_bytes` into the datagram. What is built behind
  // it is what the fragment holds, so a later one usually has only Protocol and Payload.
  Packet& Fragment(uint16_t offset_bytes, bool more, uint32_t id = 0x1234);

  Packet& Tcp(uint16_t sport, uint16_t dport);
  Packet& Udp(uint16_t sport, uint16_t dport);
  Packet& Icmp(uint8_t v4_type, uint8_t v6_type);
  Packet& Code(uint8_t code);                                       // of Icmp
  Packet& Quote(const Packet& quoted, size_t transport_bytes = 8);  // behind Icmp
  Packet& Protocol(uint8_t number);                                 // no transport header
  Packet& Payload(size_t length_bytes, uint8_t fill = 'x');
  Packet& Payload(const Bytes& bytes);

  Packet& Flags(uint8_t flags);
  Packet& Syn() { return Add(TcpFlag::kSyn); }
  Packet& Ack() { return Add(TcpFlag::kAck); }
  Packet& Fin() { return Add(TcpFlag::kFin); }
  Packet& Rst() { return Add(TcpFlag::kRst); }
  Packet& Sequence(uint32_t sequence, uint32_t acknowledged);

  // Lies and damage.
  Packet& HeaderWords(uint8_t ihl);  // IPv4 ihl
  Packet& Version(uint8_t version);
  Packet& TotalLength(uint16_t bytes);  // of IPv4, or the payload length of IPv6
  Packet& DataOffset(uint8_t words);    // TCP
  Packet& UdpLength(uint16_t bytes);
  Packet& NoChecksum();          // UDP: 0
  Packet& UnfinishedChecksum();  // UDP: as where the device is to finish it
  Packet& BadChecksums();
  Packet& TransportBytes(size_t length);  // cuts the datagram behind so much of transport header and payload
  Packet& Cut(
      size_t length_bytes);  // cuts the frame, as a device would; lengths inside still speak of the whole
  Packet& Padding(const Bytes& bytes);  // behind the datagram, as Ethernet pads short frames

  Bytes Build() const;
  Bytes Datagram() const;  // without the Ethernet header: for layer-3 devices
  bool is_v4() const { return !as_v6_ && src_.is_v4(); }

 private:
  struct ExtensionHeader {
    uint8_t type;
    Bytes bytes;  // the first one is the next header, filled in by Build
  };

  Packet& Add(TcpFlag flag);
  Bytes Transport() const;
  Bytes HeaderV4(size_t payload) const;
  Bytes HeaderV6(size_t payload) const;

  std::vector<std::pair<uint16_t, uint16_t>> vlans_;  // ethertype, tci
  std::optional<uint16_t> ethertype_;
  IpAddr src_, dst_;
  bool as_v6_ = false;
  Bytes options_;
  std::vector<ExtensionHeader> extensions_;
  uint16_t v4_fragment_ = 0;
  uint16_t v4_id_ = 0x4242;
  uint8_t protocol_ = 59, hop_limit_ = 64;
  Bytes transport_;
  Bytes payload_;
  std::optional<uint8_t> ihl_, version_;
  std::optional<uint16_t> total_length_;
  std::optional<size_t> transport_bytes_, cut_;
  Bytes padding_;
  std::optional<uint16_t> udp_length_;
  bool bad_checksums_ = false, no_checksum_ = false, unfinished_checksum_ = false;
};

// Whether the checksums of an Ethernet frame with TCP, ICMP or ICMPv6 and neither
// options nor extension headers hold.
bool ChecksumsHold(const Bytes& frame);

// Whether the UDP header that a frame ends with bears the very checksum that a device would write when it
// finishes it.
bool ChecksumIsFinal(const Bytes& frame);

}  // namespace tpx::test
