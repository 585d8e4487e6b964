// SPDX-License-Identifier: Apache-2.0
#include "support/packet.h"

#include <netinet/in.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "support/check.h"

namespace tpx::test {
namespace {

constexpr uint8_t kRoutingHeader = 43, kFragmentHeader = 44, kAuthHeader = 51;

void Put16(Bytes& to, size_t at, uint16_t value) {
  to[at] = static_cast<uint8_t>(value >> 8);
  to[at + 1] = static_cast<uint8_t>(value);
}

void Put32(Bytes& to, size_t at, uint32_t value) {
  Put16(to, at, static_cast<uint16_t>(value >> 16));
  Put16(to, at + 2, static_cast<uint16_t>(value));
}

void Append(Bytes& to, const Bytes& more) { to.insert(to.end(), more.begin(), more.end()); }

// The one's complement sum over all 16-bit words (RFC 1071).
uint16_t Checksum(const Bytes& bytes, size_t from, size_t to, uint32_t sum = 0) {
  for (size_t i = from; i < to; i += 2) sum += bytes[i] << 8 | (i + 1 < to ? bytes[i + 1] : 0);
  while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<uint16_t>(~sum);
}

IpAddr MustParse(std::string_view text) {
  auto addr = IpAddr::Parse(text);
  TPX_CHECK(addr.ok()) << addr.status();
  return *addr;
}

}  // namespace

Packet& Packet::Vlan(uint16_t tci, uint16_t ethertype) {
  vlans_.emplace_back(ethertype, tci);
  return *this;
}

Packet& Packet::EtherType(uint16_t type) {
  ethertype_ = type;
  return *this;
}

Packet& Packet::Ip(std::string_view src, std::string_view dst) { return Ip(MustParse(src), MustParse(dst)); }

Packet& Packet::Ip(const IpAddr& src, const IpAddr& dst) {
  src_ = src;
  dst_ = dst;
  return *this;
}

Packet& Packet::AsV6() {
  as_v6_ = true;
  return *this;
}

Packet& Packet::HopLimit(uint8_t hops) {
  hop_limit_ = hops;
  return *this;
}

Packet& Packet::Option(const Bytes& option) {
  Append(options_, option);
  return *this;
}

Packet& Packet::DontFragment() {
  v4_fragment_ |= 0x4000;
  return *this;
}

Packet& Packet::Extension(uint8_t type, size_t length_bytes) {
  Bytes bytes(length_bytes, 0);
  bytes[1] = static_cast<uint8_t>(type == kAuthHeader ? length_bytes / 4 - 2 : length_bytes / 8 - 1);
  extensions_.push_back({type, bytes});
  return *this;
}

Packet& Packet::Routing(uint8_t type, uint8_t segments_left) {
  extensions_.push_back({kRoutingHeader, {0, 0, type, segments_left, 0, 0, 0, 0}});
  return *this;
}

Packet& Packet::NoNextHeader() { return Protocol(59); }

Packet& Packet::Fragment(uint16_t offset_bytes, bool more, uint32_t id) {
  if (is_v4()) {
    v4_fragment_ = static_cast<uint16_t>(offset_bytes / 8 | (more ? 0x2000 : 0));
    v4_id_ = static_cast<uint16_t>(id);
    return *this;
  }
  Bytes header(8, 0);
  Put16(header, 2, static_cast<uint16_t>((offset_bytes & ~7) | (more ? 1 : 0)));
  Put32(header, 4, id);
  extensions_.push_back({kFragmentHeader, header});
  return *this;
}

Packet& Packet::Tcp(uint16_t sport, uint16_t dport) {
  protocol_ = IPPROTO_TCP;
  transport_.assign(20, 0);
  Put16(transport_, 0, sport);
  Put16(transport_, 2, dport);
  Put16(transport_, 14, 64000);
  return DataOffset(5);
}

Packet& Packet::Udp(uint16_t sport, uint16_t dport) {
  protocol_ = IPPROTO_UDP;
  transport_.assign(8, 0);
  Put16(transport_, 0, sport);
  Put16(transport_, 2, dport);
  Put16(transport_, 4, 8);
  return *this;
}

Packet& Packet::Icmp(uint8_t v4_type, uint8_t v6_type) {
  protocol_ = static_cast<uint8_t>(is_v4() ? +IPPROTO_ICMP : +IPPROTO_ICMPV6);
  transport_.assign(8, 0);
  transport_[0] = is_v4() ? v4_type : v6_type;
  return *this;
}

Packet& Packet::Code(uint8_t code) {
  transport_.at(1) = code;
  return *this;
}

Packet& Packet::Quote(const Packet& quoted, size_t transport_bytes) {
  Packet cut = quoted;
  payload_ = cut.TransportBytes(transport_bytes).Datagram();
  return *this;
}

Packet& Packet::Protocol(uint8_t number) {
  protocol_ = number;
  transport_.clear();
  return *this;
}

Packet& Packet::Payload(size_t length_bytes, uint8_t fill) {
  payload_.assign(length_bytes, fill);
  return *this;
}

Packet& Packet::Payload(const Bytes& bytes) {
  payload_ = bytes;
  return *this;
}

Packet& Packet::Flags(uint8_t flags) {
  transport_.at(13) = flags;
  return *this;
}

Packet& Packet::Add(TcpFlag flag) {
  transport_.at(13) |= static_cast<uint8_t>(flag);
  return *this;
}

Packet& Packet::Sequence(uint32_t sequence, uint32_t acknowledged) {
  Put32(transport_, 4, sequence);
  Put32(transport_, 8, acknowledged);
  return *this;
}

Packet& Packet::HeaderWords(uint8_t ihl) {
  ihl_ = ihl;
  return *this;
}

Packet& Packet::Version(uint8_t version) {
  version_ = version;
  return *this;
}

Packet& Packet::TotalLength(uint16_t bytes) {
  total_length_ = bytes;
  return *this;
}

Packet& Packet::DataOffset(uint8_t words) {
  transport_.at(12) = static_cast<uint8_t>(words << 4);
  return *this;
}

Packet& Packet::UdpLength(uint16_t bytes) {
  udp_length_ = bytes;
  return *this;
}

Packet& Packet::NoChecksum() {
  no_checksum_ = true;
  return *this;
}

Packet& Packet::UnfinishedChecksum() {
  unfinished_checksum_ = true;
  return *this;
}

Packet& Packet::BadChecksums() {
  bad_checksums_ = true;
  return *this;
}

Packet& Packet::TransportBytes(size_t length) {
  transport_bytes_ = length;
  return *this;
}

Packet& Packet::Cut(size_t length_bytes) {
  cut_ = length_bytes;
  return *this;
}

Packet& Packet::Padding(const Bytes& bytes) {
  padding_ = bytes;
  return *this;
}

Bytes Packet::Transport() const {
  Bytes bytes = transport_;
  Append(bytes, payload_);
  if (protocol_ == IPPROTO_UDP && bytes.size() >= 8)
    Put16(bytes, 4, udp_length_.value_or(static_cast<uint16_t>(bytes.size())));
  if (transport_bytes_) bytes.resize(std::min(bytes.size(), *transport_bytes_));
  size_t field = protocol_ == IPPROTO_TCP ? 16 : protocol_ == IPPROTO_UDP ? 6 : 2;
  if (transport_.empty() || bytes.size() < field + 2 || no_checksum_) return bytes;
  if (protocol_ != IPPROTO_ICMP) {
    Bytes pseudo(8, 0);
    const auto* src = reinterpret_cast<const uint8_t*>(&src_.raw);
    const auto* dst = reinterpret_cast<const uint8_t*>(&dst_.raw);
    // A mapped address sums up to 0xffff more than the IPv4 address: nothing in one's complement.
    pseudo.insert(pseudo.end(), src, src + 16);
    pseudo.insert(pseudo.end(), dst, dst + 16);
    Put32(pseudo, 0, static_cast<uint32_t>(bytes.size()));
    pseudo[7] = protocol_;
    if (!unfinished_checksum_) Append(pseudo, bytes);
    uint16_t checksum = Checksum(pseudo, 0, pseudo.size());
    if (protocol_ == IPPROTO_UDP && checksum == 0) checksum = 0xffff;  // RFC 768: 0 says that there is none
    Put16(bytes, field, unfinished_checksum_ ? static_cast<uint16_t>(~checksum) : checksum);
  } else {
    Put16(bytes, field, Checksum(bytes, 0, bytes.size()));
  }
  if (bad_checksums_) bytes[field] ^= 0x5a;
  return bytes;
}

Bytes Packet::HeaderV4(size_t payload) const {
  Bytes header(20, 0);
  Append(header, options_);
  header.resize((header.size() + 3) / 4 * 4);
  header[0] = static_cast<uint8_t>(version_.value_or(4) << 4 | ihl_.value_or(header.size() / 4));
  Put16(header, 2, total_length_.value_or(static_cast<uint16_t>(header.size() + payload)));
  Put16(header, 4, v4_id_);
  Put16(header, 6, v4_fragment_);
  header[8] = hop_limit_;
  header[9] = protocol_;
  std::memcpy(&header[12], &src_.raw.w[3], 4);
  std::memcpy(&header[16], &dst_.raw.w[3], 4);
  Put16(header, 10, Checksum(header, 0, header.size()));
  if (bad_checksums_) header[10] ^= 0x5a;
  return header;
}

Bytes Packet::HeaderV6(size_t payload) const {
  Bytes header(40, 0), chain;
  uint8_t next = protocol_;
  for (auto extension = extensions_.rbegin(); extension != extensions_.rend(); ++extension) {
    Bytes bytes = extension->bytes;
    bytes[0] = std::exchange(next, extension->type);
    chain.insert(chain.begin(), bytes.begin(), bytes.end());
  }
  header[0] = static_cast<uint8_t>(version_.value_or(6) << 4);
  Put16(header, 4, total_length_.value_or(static_cast<uint16_t>(chain.size() + payload)));
  header[6] = next;
  header[7] = hop_limit_;
  std::memcpy(&header[8], &src_.raw, 16);
  std::memcpy(&header[24], &dst_.raw, 16);
  Append(header, chain);
  return header;
}

Bytes Packet::Datagram() const {
  Bytes transport = Transport();
  Bytes bytes = is_v4() ? HeaderV4(transport.size()) : HeaderV6(transport.size());
  Append(bytes, transport);
  return bytes;
}

bool ChecksumsHold(const Bytes& frame) {
  const bool v4 = frame.at(12) == 0x08;
  const size_t transport = kEthernetBytes + (v4 ? 20 : 40), addresses = transport - (v4 ? 8 : 32);
  if (v4 && Checksum(frame, kEthernetBytes, transport) != 0) return false;
  const uint8_t protocol = frame.at(kEthernetBytes + (v4 ? 9 : 6));
  if (protocol == IPPROTO_ICMP) return Checksum(frame, transport, frame.size()) == 0;
  Bytes pseudo(8, 0);
  Put32(pseudo, 0, static_cast<uint32_t>(frame.size() - transport));
  pseudo[7] = protocol;
  pseudo.insert(pseudo.end(), frame.begin() + static_cast<ptrdiff_t>(addresses), frame.end());
  return Checksum(pseudo, 0, pseudo.size()) == 0;
}

bool ChecksumIsFinal(const Bytes& frame) {
  const uint16_t finished = Checksum(frame, frame.size() - 8, frame.size());
  const uint16_t field = static_cast<uint16_t>(frame.at(frame.size() - 2) << 8 | frame.at(frame.size() - 1));
  return finished % 0xffff == field % 0xffff;  // 0 has two forms
}

Bytes Packet::Build() const {
  Bytes frame = {2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2};
  auto put_type = [&frame](uint16_t type) {
    frame.resize(frame.size() + 2);
    Put16(frame, frame.size() - 2, type);
  };
  for (const auto& [ethertype, tci] : vlans_) {
    put_type(ethertype);
    put_type(tci);
  }
  if (ethertype_) {
    put_type(*ethertype_);
    Append(frame, payload_);
  } else {
    put_type(is_v4() ? 0x0800 : 0x86dd);
    Append(frame, Datagram());
  }
  Append(frame, padding_);
  if (cut_) frame.resize(std::min(frame.size(), *cut_));
  return frame;
}

}  // namespace tpx::test
