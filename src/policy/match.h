// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

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
MatchNodes ReadMatch(Diagnostics& out, const YamlNode& node, const Sets& sets, const OwnerLookup& owners,
                     Rule& rule);

// One or many values of a key of the link.
void ReadInterfaceMatch(Diagnostics& out, const YamlNode& node, std::vector<std::string>& interfaces);
void ReadMacs(Diagnostics& out, const YamlNode& node, std::vector<MacAddress>& macs);
void ReadDscps(Diagnostics& out, const YamlNode& node, std::vector<uint8_t>& dscps);
void ReadMarks(Diagnostics& out, const YamlNode& node, std::vector<MarkMatch>& marks);
void ReadVlans(Diagnostics& out, const YamlNode& node, std::vector<uint16_t>& vlans);

// One or many values of a key of the owner.
void ReadIds(Diagnostics& out, const YamlNode& node, std::string_view what,
             const std::function<absl::StatusOr<uint32_t>(const std::string&)>& lookup,
             std::vector<IdRange>& ids);
void ReadCgroups(Diagnostics& out, const YamlNode& node, const OwnerLookup& owners,
                 std::vector<CgroupMatch>& cgroups);
void ReadPrograms(Diagnostics& out, const YamlNode& node, const OwnerLookup& owners,
                  std::vector<ProgramMatch>& programs);

// Reads one or many values, each of which may be listed once.
template <typename T, typename Read>
void ReadList(Diagnostics& out, const YamlNode& node, std::string_view what, std::vector<T>& list,
              Read read) {
  for (const YamlNode* item : ReadOneOrMany(out, node, what)) {
    if (out.full()) return;
    std::optional<T> value = read(*item);
    if (!value) continue;
    if (std::find(list.begin(), list.end(), *value) != list.end()) {
      out.Error(*item, StrCat(what, ": ", Quote(item->text), " is listed twice"));
    } else {
      list.push_back(*std::move(value));
    }
  }
}

}  // namespace tpx::policy
