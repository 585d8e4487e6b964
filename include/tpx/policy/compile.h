// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tpx/policy/config.h"
#include "tpx_abi.h"

namespace tpx::policy {

// An entry of tpx_attributes: the rules that accept a value.
struct AttributeEntry {
  tpx_attribute_key key;
  tpx_bits rules;
};

// The content of one generation's maps; see struct tpx_tables for the scheme.
struct CompiledPolicy {
  std::unique_ptr<tpx_tables> tables;  // generation is 0: set by whoever publishes it
  // [TPX_DIM_SRC], [TPX_DIM_DST]:
  std::vector<tpx_page> pages[2];          // empty where the blocks of the tables suffice
  std::vector<bool> address_classes[2];    // by class number: some address has it
  std::vector<AttributeEntry> attributes;  // all but the devices
};

struct DeviceName {
  std::string name;
  uint32_t ifindex = 0;
  uint16_t vlan = 0;  // of a device for one VLAN; else 0
};

// The entries of devices; none where no rule asks for interface or vlan.
// Pure function as well: whoever follows the devices keeps them up to date.
std::vector<AttributeEntry> DeviceEntries(const Policy& policy, const std::vector<DeviceName>& devices);

// Pure function: no kernel, no I/O. Fails with kResourceExhausted and the
// limit's name when the policy has too many rules, prefixes or classes, and with
// kInvalidArgument when its last rule does not match everything.
absl::StatusOr<CompiledPolicy> Compile(const Policy& policy);

struct Shadowed {
  size_t rule = 0;  // never matches,
  size_t by = 0;    // because this earlier rule accepts all that it accepts
};

// Rules that another single rule shadows, in order. Rules that match nothing by
// themselves are not listed, nor are those that only several rules cover together.
std::vector<Shadowed> FindShadowed(const Policy& policy, const CompiledPolicy& compiled);

}  // namespace tpx::policy
