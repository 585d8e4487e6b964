// SPDX-License-Identifier: Apache-2.0
#include "tpx/sys/icmp.h"

#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/ip_icmp.h>
#include <netinet/udp.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "checksum.h"
#include "socket_options.h"
#include "tpx/base/status.h"
#include "tpx/sys/udp_socket.h"

namespace tpx::sys {
namespace {

constexpr size_t kMostV4 = 576;   // RFC 1812, 4.3.2.3
constexpr size_t kMostV6 = 1280;  // RFC 4443, 2.4 (c)
constexpr uint8_t kHops = 64;

struct Kind {
  IcmpProblem problem;
  uint8_t type4, code4, type6, code6;
};
constexpr Kind kKinds[] = {
    {IcmpProblem::kPortUnreachable, ICMP_DEST_UNREACH, ICMP_PORT_UNREACH, ICMP6_DST_UNREACH,
     ICMP6_DST_UNREACH_NOPORT},
    {IcmpProblem::kHostUnreachable, ICMP_DEST_UNREACH, ICMP_HOST_UNREACH, ICMP6_DST_UNREACH,
     ICMP6_DST_UNREACH_ADDR},
    {IcmpProblem::kNetworkUnreachable, ICMP_DEST_UNREACH, ICMP_NET_UNREACH, ICMP6_DST_UNREACH,
     ICMP6_DST_UNREACH_NOROUTE},
    {IcmpProblem::kProhibited, ICMP_DEST_UNREACH, ICMP_PKT_FILTERED, ICMP6_DST_UNREACH,
     ICMP6_DST_UNREACH_ADMIN},
    {IcmpProblem::kTooBig, ICMP_DEST_UNREACH, ICMP_FRAG_NEEDED, ICMP6_PACKET_TOO_BIG, 0},
    {IcmpProblem::kTimeExceeded, ICMP_TIME_EXCEEDED, ICMP_EXC_TTL, ICMP6_TIME_EXCEEDED,
     ICMP6_TIME_EXCEED_TRANSIT},
};

uint16_t ChecksumOf(const void* bytes, size_t len) {
  InternetChecksum sum;
  sum.Add(bytes, len);
  return sum.value();
}

// A packet that grows at its end.
class Packet {
 public:
  template <typename T>
  size_t Add(const T& header) {
    memcpy(bytes_.data() + size_, &header, sizeof(header));
    size_ += sizeof(header);
    return size_ - sizeof(header);
  }
  void AddBytes(std::span<const char> bytes, size_t most) {
    bytes = bytes.first(std::min(bytes.size(), most - size_));
    std::copy(bytes.begin(), bytes.end(), bytes_.begin() + size_);
    size_ += bytes.size();
  }
  template <typename T>
  void Put(size_t at, const T& value) {
    memcpy(bytes_.data() + at, &value, sizeof(value));
  }
  const char* data() const { return bytes_.data(); }
  size_t size() const { return size_; }

 private:
  std::array<char, kMostV6> bytes_{};
  size_t size_ = 0;
};

udphdr QuotedUdp(const IcmpError& error) {
  udphdr udp{};
  udp.source = htons(error.source.port);
  udp.dest = htons(error.destination.port);
  udp.len = htons(static_cast<uint16_t>(sizeof(udp) + error.payload.size()));
  return udp;
}

iphdr V4Header(uint32_t from, uint32_t to, uint8_t protocol, size_t len) {
  iphdr ip{};
  ip.version = 4;
  ip.ihl = sizeof(ip) / 4;
  ip.tot_len = htons(static_cast<uint16_t>(len));
  ip.frag_off = htons(IP_DF);
  ip.ttl = kHops;
  ip.protocol = protocol;
  ip.saddr = from;
  ip.daddr = to;
  ip.check = ChecksumOf(&ip, sizeof(ip));
  return ip;
}

uint32_t V4(const IpAddr& address) { return address.raw.w[3]; }

void BuildV4(const IcmpError& error, const Kind& kind, Packet& packet) {
  packet.Add(iphdr{});  // its length is not known yet
  icmphdr icmp{};
  icmp.type = kind.type4;
  icmp.code = kind.code4;
  if (error.problem == IcmpProblem::kTooBig) icmp.un.frag.mtu = htons(static_cast<uint16_t>(error.mtu));
  const size_t at = packet.Add(icmp);
  packet.Add(V4Header(V4(error.source.addr), V4(error.destination.addr), IPPROTO_UDP,
                      sizeof(iphdr) + sizeof(udphdr) + error.payload.size()));
  packet.Add(QuotedUdp(error));
  packet.AddBytes(error.payload, kMostV4);
  icmp.checksum = ChecksumOf(packet.data() + at, packet.size() - at);
  packet.Put(at, icmp);
  packet.Put(0, V4Header(V4(error.from), V4(error.source.addr), IPPROTO_ICMP, packet.size()));
}

ip6_hdr V6Header(const IpAddr& from, const IpAddr& to, uint8_t protocol, size_t payload_len) {
  ip6_hdr ip{};
  ip.ip6_flow = htonl(6U << 28);
  ip.ip6_plen = htons(static_cast<uint16_t>(payload_len));
  ip.ip6_nxt = protocol;
  ip.ip6_hlim = kHops;
  memcpy(&ip.ip6_src, &from.raw, sizeof(ip.ip6_src));
  memcpy(&ip.ip6_dst, &to.raw, sizeof(ip.ip6_dst));
  return ip;
}

void BuildV6(const IcmpError& error, const Kind& kind, Packet& packet) {
  packet.Add(ip6_hdr{});
  icmp6_hdr icmp{};
  icmp.icmp6_type = kind.type6;
  icmp.icmp6_code = kind.code6;
  if (error.problem == IcmpProblem::kTooBig) icmp.icmp6_mtu = htonl(error.mtu);
  const size_t at = packet.Add(icmp);
  packet.Add(V6Header(error.source.addr, error.destination.addr, IPPROTO_UDP,
                      sizeof(udphdr) + error.payload.size()));
  packet.Add(QuotedUdp(error));
  packet.AddBytes(error.payload, kMostV6);
  const size_t len = packet.size() - at;
  const uint32_t pseudo[] = {htonl(static_cast<uint32_t>(len)), htonl(IPPROTO_ICMPV6)};
  InternetChecksum sum;
  sum.Add(&error.from.raw, sizeof(error.from.raw));
  sum.Add(&error.source.addr.raw, sizeof(error.source.addr.raw));
  sum.Add(pseudo, sizeof(pseudo));
  sum.Add(packet.data() + at, len);
  icmp.icmp6_cksum = sum.value();
  packet.Put(at, icmp);
  packet.Put(0, V6Header(error.from, error.source.addr, IPPROTO_ICMPV6, len));
}

// IPPROTO_RAW: the packet comes with its IP header, so its source is ours to choose.
int OpenRaw(int family, uint32_t mark, UniqueFd& out) {
  out.Reset(socket(family, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_RAW));
  if (!out) return -errno;
  return SetMark(out.get(), mark);
}

}  // namespace

IcmpProblem IcmpProblemOf(bool v4, uint8_t type, uint8_t code) {
  const Kind* found = std::find_if(std::begin(kKinds), std::end(kKinds), [&](const Kind& k) {
    return v4 ? k.type4 == type && k.code4 == code : k.type6 == type && k.code6 == code;
  });
  if (found != std::end(kKinds)) return found->problem;
  if (v4 && type == ICMP_DEST_UNREACH) return IcmpProblem::kHostUnreachable;
  if (!v4 && type == ICMP6_DST_UNREACH) return IcmpProblem::kHostUnreachable;
  return IcmpProblem::kNone;
}

absl::StatusOr<IcmpSender> IcmpSender::Create(uint32_t mark) {
  UniqueFd v4, v6;
  if (int r = OpenRaw(AF_INET, mark, v4); r < 0) return ErrnoStatus(-r, "raw socket (needs CAP_NET_RAW)");
  // Without IPv6 on the machine there is nothing to tell.
  if (int r = OpenRaw(AF_INET6, mark, v6); r < 0 && r != -EAFNOSUPPORT) {
    return ErrnoStatus(-r, "raw IPv6 socket (needs CAP_NET_RAW)");
  }
  return IcmpSender(std::move(v4), std::move(v6));
}

int IcmpSender::Send(const IcmpError& error) {
  const Kind* kind = std::find_if(std::begin(kKinds), std::end(kKinds),
                                  [&](const Kind& k) { return k.problem == error.problem; });
  const bool v4 = error.source.addr.is_v4();
  if (kind == std::end(kKinds) || error.from.is_v4() != v4 || error.destination.addr.is_v4() != v4) {
    return -EINVAL;
  }
  Packet packet;
  v4 ? BuildV4(error, *kind, packet) : BuildV6(error, *kind, packet);
  sockaddr_storage to{};
  const socklen_t length = Endpoint{error.source.addr, 0}.ToNativeSockaddr(to);
  const ssize_t n = sendto(v4 ? v4_.get() : v6_.get(), packet.data(), packet.size(), MSG_DONTWAIT,
                           reinterpret_cast<const sockaddr*>(&to), length);
  return n < 0 ? -errno : 0;
}

IpAddr SourceTowards(const IpAddr& to, uint32_t mark) {
  constexpr uint16_t kAnyPort = 9;
  const UniqueFd fd(OpenUdpUpstream(to.is_v4(), mark));
  if (!fd || ConnectUdp(fd.get(), {.addr = to, .port = kAnyPort}) < 0) return {};
  sockaddr_storage own{};
  socklen_t length = sizeof(own);
  if (getsockname(fd.get(), reinterpret_cast<sockaddr*>(&own), &length) != 0) return {};
  return Endpoint::FromSockaddr(reinterpret_cast<const sockaddr&>(own)).addr;
}

}  // namespace tpx::sys
