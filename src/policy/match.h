// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>

#include "policy/sections.h"

namespace tpx::policy {

// The `match` of one rule as it is written, with the places that errors about
// the combination of its keys refer to.
struct MatchNodes {
  const YamlNode* proto = nullptr;
  const YamlNode* ports = nullptr;  // the first of sport and dport
};

// Fills protocols, src, dst, sports, dports and matches_nothing of `rule`.
MatchNodes ReadMatch(Diagnostics& out, const YamlNode& node, const Sets& sets, Rule& rule);

}  // namespace tpx::policy
