// SPDX-License-Identifier: Apache-2.0
#include "tpx/base/mac.h"

#include <cstddef>

#include "absl/strings/ascii.h"

namespace tpx {

std::optional<MacAddress> ParseMac(std::string_view text) {
  MacAddress mac{};
  if (text.size() != 3 * mac.size() - 1) return std::nullopt;
  for (size_t i = 0; i < text.size(); ++i) {
    if (i % 3 == 2) {
      if (text[i] != ':') return std::nullopt;
      continue;
    }
    if (!absl::ascii_isxdigit(static_cast<unsigned char>(text[i]))) return std::nullopt;
    const char digit = absl::ascii_tolower(static_cast<unsigned char>(text[i]));
    const int value = digit >= 'a' ? digit - 'a' + 10 : digit - '0';
    mac[i / 3] = static_cast<uint8_t>(mac[i / 3] << 4 | value);
  }
  return mac;
}

}  // namespace tpx
