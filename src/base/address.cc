// SPDX-License-Identifier: Apache-2.0
#include "tpx/base/address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "tpx/base/strings.h"

namespace tpx {
namespace {

constexpr uint8_t kV4Bits = 96;  // length of ::ffff:0:0/96

IpAddr FromV4(in_addr_t address_be) { return {.raw = {{0, 0, htonl(0xffff), address_be}}}; }

IpAddr FromV6(const in6_addr& address) {
  IpAddr out;
  memcpy(&out.raw, &address, sizeof(out.raw));
  return out;
}

// As inet_pton, but takes mapped addresses apart from dotted ones: *dotted
// tells how the text was written.
bool ParseNumeric(std::string_view text, IpAddr* out, bool* dotted) {
  char buffer[INET6_ADDRSTRLEN];
  if (text.size() >= sizeof(buffer) || text.find('\0') != text.npos) return false;
  buffer[text.copy(buffer, sizeof(buffer) - 1)] = '\0';
  *dotted = text.find(':') == text.npos;
  if (*dotted) {
    in_addr v4;
    if (inet_pton(AF_INET, buffer, &v4) != 1) return false;
    *out = FromV4(v4.s_addr);
    return true;
  }
  in6_addr v6;
  if (inet_pton(AF_INET6, buffer, &v6) != 1) return false;
  *out = FromV6(v6);
  return true;
}

IpAddr Masked(IpAddr addr, unsigned length) {
  for (unsigned i = 0; i < 4; ++i) {
    unsigned kept = std::clamp(static_cast<int>(length) - static_cast<int>(32 * i), 0, 32);
    addr.raw.w[i] &= kept == 0 ? 0 : htonl(~uint32_t{0} << (32 - kept));
  }
  return addr;
}

// RFC 5952, section 4: the first of the longest runs of two or more zero groups
// is "::", no leading zeros, lower case.
std::string FormatV6(const IpAddr& addr) {
  std::array<uint16_t, 8> groups;
  memcpy(groups.data(), &addr.raw, sizeof(groups));
  size_t best = 0, best_length = 1;
  for (size_t i = 0; i < groups.size();) {
    size_t end = i;
    while (end < groups.size() && groups[end] == 0) ++end;
    if (end - i > best_length) best = i, best_length = end - i;
    i = std::max(end, i + 1);
  }
  std::string out;
  for (size_t i = 0; i < groups.size();) {
    if (best_length > 1 && i == best) {
      out += "::";
      i += best_length;
      continue;
    }
    if (!out.empty() && out.back() != ':') out += ':';
    absl::StrAppend(&out, absl::Hex(ntohs(groups[i])));
    ++i;
  }
  return out;
}

}  // namespace

absl::StatusOr<IpAddr> IpAddr::Parse(std::string_view text) {
  IpAddr addr;
  bool dotted = false;
  if (!ParseNumeric(text, &addr, &dotted)) {
    return absl::InvalidArgumentError(StrCat(Quote(text), " is not an IPv4 or IPv6 address"));
  }
  if (addr.is_v4() && !dotted) {
    return absl::InvalidArgumentError(
        StrCat(Quote(text), " is an IPv4-mapped address, write ", addr.ToString()));
  }
  return addr;
}

bool IpAddr::is_v4() const { return raw.w[0] == 0 && raw.w[1] == 0 && raw.w[2] == htonl(0xffff); }

std::string IpAddr::ToString() const {
  if (!is_v4()) return FormatV6(*this);
  uint32_t v4 = ntohl(raw.w[3]);
  return StrCat(v4 >> 24, ".", (v4 >> 16) & 255, ".", (v4 >> 8) & 255, ".", v4 & 255);
}

bool operator==(const IpAddr& a, const IpAddr& b) { return memcmp(&a.raw, &b.raw, sizeof(a.raw)) == 0; }

std::strong_ordering operator<=>(const IpAddr& a, const IpAddr& b) {
  return memcmp(&a.raw, &b.raw, sizeof(a.raw)) <=> 0;
}

Endpoint Endpoint::FromSockaddr(const sockaddr& address) {
  if (address.sa_family == AF_INET) {
    sockaddr_in v4;
    memcpy(&v4, &address, sizeof(v4));
    return {FromV4(v4.sin_addr.s_addr), ntohs(v4.sin_port)};
  }
  if (address.sa_family == AF_INET6) {
    sockaddr_in6 v6;
    memcpy(&v6, &address, sizeof(v6));
    return {FromV6(v6.sin6_addr), ntohs(v6.sin6_port)};
  }
  return {};
}

unsigned Endpoint::ToSockaddr6(sockaddr_storage& out) const {
  sockaddr_in6 v6{};
  v6.sin6_family = AF_INET6;
  v6.sin6_port = htons(port);
  memcpy(&v6.sin6_addr, &addr.raw, sizeof(addr.raw));
  memcpy(&out, &v6, sizeof(v6));
  return sizeof(v6);
}

unsigned Endpoint::ToNativeSockaddr(sockaddr_storage& out) const {
  if (!addr.is_v4()) return ToSockaddr6(out);
  sockaddr_in v4{};
  v4.sin_family = AF_INET;
  v4.sin_port = htons(port);
  v4.sin_addr.s_addr = addr.raw.w[3];
  memcpy(&out, &v4, sizeof(v4));
  return sizeof(v4);
}

std::string Endpoint::ToString() const {
  if (addr.is_v4()) return StrCat(addr.ToString(), ":", port);
  return StrCat("[", addr.ToString(), "]:", port);
}

absl::StatusOr<Prefix> Prefix::Parse(std::string_view text) {
  size_t slash = text.find('/');
  IpAddr addr;
  bool dotted = false;
  if (!ParseNumeric(text.substr(0, slash), &addr, &dotted)) {
    return absl::InvalidArgumentError(StrCat(Quote(text), " is not an address or prefix"));
  }
  unsigned width = dotted ? 32 : 128;
  unsigned length = width;
  if (slash != text.npos) {
    std::string_view digits = text.substr(slash + 1);
    bool plain = !digits.empty() && digits.size() <= 3 && (digits.size() == 1 || digits[0] != '0') &&
                 std::all_of(digits.begin(), digits.end(), [](char c) { return c >= '0' && c <= '9'; });
    if (!plain || !absl::SimpleAtoi(ToAbsl(digits), &length) || length > width) {
      return absl::InvalidArgumentError(
          StrCat("prefix length of ", Quote(text), " is not a number from 0 to ", width));
    }
  }
  if (dotted) length += kV4Bits;
  Prefix prefix{Masked(addr, length), static_cast<uint8_t>(length)};
  if (prefix.is_v4() && !dotted) {
    return absl::InvalidArgumentError(
        StrCat(Quote(text), " is an IPv4-mapped prefix, write ", prefix.ToString()));
  }
  if (prefix.addr != addr) {
    return absl::InvalidArgumentError(
        StrCat(Quote(text), " has bits set behind its length, did you mean ", prefix.ToString()));
  }
  return prefix;
}

bool Prefix::Contains(const IpAddr& a) const { return a.is_v4() == is_v4() && Masked(a, length) == addr; }

std::string Prefix::ToString() const {
  return StrCat(addr.ToString(), "/", is_v4() ? length - kV4Bits : length);
}

}  // namespace tpx
