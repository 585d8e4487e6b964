// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "tpx/control/lifecycle.h"
#include "tpx/policy/compile.h"
#include "tpx/policy/config.h"
#include "tpx/sys/rtnl.h"

namespace tpx::control {

// Which devices a configuration means. A name goes before a pattern; patterns
// never match the loopback device.
struct Resolution {
  std::vector<Device> devices;         // mode and priority not decided yet
  std::vector<std::string> missing;    // names without a device
  std::vector<std::string> unmatched;  // patterns without a device
  std::vector<std::string> conflicts;  // devices that are both LAN and WAN
};
Resolution ResolveDevices(const policy::Interfaces& interfaces, const std::vector<sys::LinkInfo>& links);

// What rules may ask of the devices.
std::vector<policy::DeviceName> NamesOf(const std::vector<Device>& devices,
                                        const std::vector<sys::LinkInfo>& links);

// The error for missing names and conflicts; names similar existing devices.
absl::Status CheckResolution(const Resolution& resolution, const std::vector<sys::LinkInfo>& links);

}  // namespace tpx::control
