// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "tpx/base/address.h"
#include "tpx/sys/rtnl.h"

namespace tpx::control {

// What the stack delivers locally because of these addresses: themselves and
// their broadcasts, each with its enum tpx_local_kind.
std::map<IpAddr, uint32_t> LocalAddresses(const std::vector<sys::AddressInfo>& addresses);

// Makes the map, and the filter before it, equal to the namespace's addresses; adds before it removes.
// One at a time: whoever calls it holds the lock of the instance.
absl::Status SyncLocalAddresses(const std::string& pins, sys::Rtnl& rtnl);

}  // namespace tpx::control
