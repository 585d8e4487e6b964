// SPDX-License-Identifier: Apache-2.0
#include "tpx/data/forbidden.h"

#include <algorithm>
#include <bit>

namespace tpx::data {
namespace {

constexpr uint32_t ToBe(uint32_t host) {
  return std::endian::native == std::endian::little ? __builtin_bswap32(host) : host;
}

constexpr Prefix V6(uint32_t a, uint32_t b, uint32_t c, uint32_t d, uint8_t length) {
  return {.addr = {.raw = {.w = {ToBe(a), ToBe(b), ToBe(c), ToBe(d)}}}, .length = length};
}

constexpr Prefix V4(uint32_t address, uint8_t length) {
  return V6(0, 0, 0xffff, address, static_cast<uint8_t>(96 + length));
}

constexpr Prefix kForbidden[] = {
    V4(0x00000000, 8),                 // 0.0.0.0/8 "this network"
    V4(0x7f000000, 8),                 // 127.0.0.0/8 loopback
    V4(0xa9fe0000, 16),                // 169.254.0.0/16 link-local, metadata
    V4(0x646464c8, 32),                // 100.100.100.200 metadata
    V4(0xe0000000, 4),                 // 224.0.0.0/4 multicast
    V4(0xffffffff, 32),                // 255.255.255.255 broadcast
    V6(0, 0, 0, 0, 128),               // :: unspecified
    V6(0, 0, 0, 1, 128),               // ::1 loopback
    V6(0xfe800000, 0, 0, 0, 10),       // fe80::/10 link-local
    V6(0xff000000, 0, 0, 0, 8),        // ff00::/8 multicast
    V6(0xfd000ec2, 0, 0, 0x254, 128),  // fd00:ec2::254 metadata
};

}  // namespace

bool IsForbidden(const Endpoint& client, const Endpoint& destination, uint16_t listen_port) {
  if (destination.port == listen_port && destination.addr == client.addr) return true;
  return std::ranges::any_of(kForbidden, [&](const Prefix& p) { return p.Contains(destination.addr); });
}

}  // namespace tpx::data
