// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

// Options that TCP and UDP sockets have in common. 0 or a negative errno.
namespace tpx::sys {

// IPV6_TRANSPARENT of <linux/in6.h>, which does not go together with <netinet/in.h>.
inline constexpr int kIpv6Transparent = 75;

int SetInt(int fd, int level, int option, int value);
int SetMark(int fd, uint32_t mark);  // 0: leaves it alone
int SetTransparent(int fd);          // for both families

}  // namespace tpx::sys
