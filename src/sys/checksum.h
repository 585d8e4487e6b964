// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <cstring>

namespace tpx::sys {

// The checksum of the Internet protocols (RFC 1071). Of the parts that are added
// all but the last have an even length.
class InternetChecksum {
 public:
  void Add(const void* bytes, size_t len) {
    const auto* at = static_cast<const uint8_t*>(bytes);
    for (; len >= sizeof(uint32_t); at += sizeof(uint32_t), len -= sizeof(uint32_t)) AddWord<uint32_t>(at);
    if (len >= sizeof(uint16_t)) {
      AddWord<uint16_t>(at);
      at += sizeof(uint16_t);
      len -= sizeof(uint16_t);
    }
    if (len == 0) return;
    const uint8_t padded[2] = {*at, 0};
    AddWord<uint16_t>(padded);
  }

  // As it stands in a packet: the sum is the same in either byte order.
  uint16_t value() const {
    uint64_t sum = sum_;
    while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
    return static_cast<uint16_t>(~sum);
  }

 private:
  template <typename Word>
  void AddWord(const uint8_t* at) {
    Word word;
    memcpy(&word, at, sizeof(word));
    sum_ += word;
  }

  uint64_t sum_ = 0;
};

}  // namespace tpx::sys
