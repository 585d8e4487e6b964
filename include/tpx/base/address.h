// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/statusor.h"
#include "tpx_abi.h"

struct sockaddr;
struct sockaddr_storage;

namespace tpx {

// An IPv6 address; IPv4 is held as ::ffff:a.b.c.d (RFC 4291, 2.5.5.2), so that
// everything above has one code path.
struct IpAddr {
  tpx_addr raw{};

  // "192.0.2.1" or "2001:db8::1"; no zone, no port, no surrounding blanks, and
  // no mapped form ("::ffff:192.0.2.1"): every address has one spelling of its family.
  static absl::StatusOr<IpAddr> Parse(std::string_view text);
  bool is_v4() const;
  std::string ToString() const;  // IPv4 in dotted form, IPv6 as RFC 5952
  friend bool operator==(const IpAddr& a, const IpAddr& b);
  friend std::strong_ordering operator<=>(const IpAddr& a, const IpAddr& b);
  template <typename H>
  friend H AbslHashValue(H state, const IpAddr& a) {
    return H::combine(std::move(state), a.raw.w[0], a.raw.w[1], a.raw.w[2], a.raw.w[3]);
  }
};

struct Endpoint {
  IpAddr addr;
  uint16_t port = 0;  // host byte order

  static Endpoint FromSockaddr(const sockaddr& address);
  // Fills a sockaddr_in6 (IPv4 as mapped), usable on any dual-stack socket;
  // returns its length.
  unsigned ToSockaddr6(sockaddr_storage& out) const;
  // Fills a sockaddr_in or sockaddr_in6 as the address is; returns its length.
  unsigned ToNativeSockaddr(sockaddr_storage& out) const;
  std::string ToString() const;  // "192.0.2.1:80", "[2001:db8::1]:80"
  friend bool operator==(const Endpoint&, const Endpoint&) = default;
  template <typename H>
  friend H AbslHashValue(H state, const Endpoint& e) {
    return H::combine(std::move(state), e.addr, e.port);
  }
};

// A prefix of the mapped address space: an IPv4 /24 has length 96 + 24. It
// belongs to one family: "::/0" is every IPv6 address and no IPv4 address.
struct Prefix {
  IpAddr addr;
  uint8_t length = 0;  // 0 to 128; bits of addr behind it are 0

  // "192.0.2.0/24", "2001:db8::/32" or a single address. Host bits that are
  // set are an error which names the prefix that was probably meant.
  static absl::StatusOr<Prefix> Parse(std::string_view text);
  bool is_v4() const { return addr.is_v4(); }
  bool Contains(const IpAddr& a) const;
  std::string ToString() const;
  friend bool operator==(const Prefix&, const Prefix&) = default;
  friend std::strong_ordering operator<=>(const Prefix&, const Prefix&) = default;
};

}  // namespace tpx
