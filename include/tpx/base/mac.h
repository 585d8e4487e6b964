// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

namespace tpx {

using MacAddress = std::array<uint8_t, 6>;

// "00:00:5e:00:53:01", in letters of either case.
std::optional<MacAddress> ParseMac(std::string_view text);

}  // namespace tpx
