// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>
#include <vector>

#include "policy/reader.h"
#include "tpx/base/address.h"
#include "tpx/policy/config.h"

// The parts of the file, one reader each; parse.cc puts them together.
namespace tpx::policy {

// Prefixes of each set, merged.
using Sets = std::map<std::string, std::vector<Prefix>, std::less<>>;

// Of all sets together, and of all rules together, where a set counts once for
// each rule that names it.
inline constexpr size_t kMaxPrefixesTotal = 4u * TPX_MAX_PREFIXES;

// What a rule does where it does not say otherwise.
struct RuleDefaults {
  tpx_fail_mode fail_mode = TPX_FAIL_OPEN;
  tpx_source_mode source = TPX_SOURCE_MASQUERADE;
  tpx_mapping mapping = TPX_MAPPING_ENDPOINT_INDEPENDENT;
};

Interfaces ReadInterfaces(Diagnostics& out, const YamlNode& node);
// What is wrong with a name or pattern, as the kernel's dev_valid_name has it; empty where nothing is.
std::string_view InterfaceProblem(std::string_view name);
// Those that are in files are listed in `files` too.
Sets ReadSets(Diagnostics& out, const YamlNode& node, const FileReader& read_file,
              const SetProgress& progress, std::vector<SetFile>& files);
void ReadFailMode(Diagnostics& out, const YamlNode& node, tpx_fail_mode& mode);
void ReadSourceMode(Diagnostics& out, const YamlNode& node, tpx_source_mode& source);
void ReadMapping(Diagnostics& out, const YamlNode& node, tpx_mapping& mapping);
void ReadLimit(Diagnostics& out, const YamlNode& node, RateLimit& limit);
std::vector<Rule> ReadRules(Diagnostics& out, const YamlNode& node, const Sets& sets,
                            const RuleDefaults& defaults, const OwnerLookup& owners);
// Sets action, and target where it is a redirect; false after an error.
bool ReadAction(Diagnostics& out, const YamlNode& node, Rule& rule);
// One of the actions as `default` takes it: a redirect is none.
void ReadDefaultAction(Diagnostics& out, const YamlNode& node, tpx_action& action);
// Puts the implicit rules behind `rules`.
void AppendDefault(std::vector<Rule>& rules, tpx_action action, const RuleDefaults& defaults);
Local ReadLocal(Diagnostics& out, const YamlNode& node);
// What is wrong with a path of a cgroup below the root; empty where nothing is.
std::string_view CgroupProblem(std::string_view path);
Steering ReadSteering(Diagnostics& out, const YamlNode& node);
void ReadXdp(Diagnostics& out, const YamlNode& node, XdpMode& mode);
Proxy ReadProxy(Diagnostics& out, const YamlNode& node);

}  // namespace tpx::policy
