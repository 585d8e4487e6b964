// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>

#include "policy/sections.h"

namespace tpx::policy {

// The `match` of one rule as it is written, with the places that errors about
// the combination of its keys refer to.
struct MatchNodes {
  const YamlNode* proto = nullptr;
  bool negates_proto = false;
  const YamlNode* ports = nullptr;  // the first of sport and dport
};

// Fills what `rule` matches. What `not` says of protocols, ports and DSCP is
// turned into a list of all others; of the rest the rule keeps it as negated.
MatchNodes ReadMatch(Diagnostics& out, const YamlNode& node, const Sets& sets, Rule& rule);

// One or many values of a key of the link.
void ReadInterfaceMatch(Diagnostics& out, const YamlNode& node, std::vector<std::string>& interfaces);
void ReadMacs(Diagnostics& out, const YamlNode& node, std::vector<MacAddress>& macs);
void ReadDscps(Diagnostics& out, const YamlNode& node, std::vector<uint8_t>& dscps);
void ReadMarks(Diagnostics& out, const YamlNode& node, std::vector<MarkMatch>& marks);

}  // namespace tpx::policy
