// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/statusor.h"
#include "tpx/policy/config.h"

namespace tpx::control {

// A configuration with its sets replaced by their prefixes, so that it can be
// had back without the files it was read from.
std::string EncodeConfig(const policy::Config& config);
absl::StatusOr<policy::Config> DecodeConfig(const std::string& text);

nlohmann::json SteeringToJson(const policy::Steering& steering);
policy::Steering SteeringFromJson(const nlohmann::json& json);
nlohmann::json InterfacesToJson(const policy::Interfaces& interfaces);
policy::Interfaces InterfacesFromJson(const nlohmann::json& json);

}  // namespace tpx::control
