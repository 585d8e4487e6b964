// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "tpx/policy/parse.h"

namespace tpx::app {

struct ConfigFile {
  std::string text;
  policy::ParseResult parsed;
};

// Reads and parses a configuration with the sets it names (relative to its
// folder). The Status is about the file itself: missing, too large, not a
// regular file, writable by everybody. Faults of the content are in parsed.
absl::StatusOr<ConfigFile> ReadConfigFile(const std::string& path);

// Parses the text of the configuration at `path` with the sets it names as they are now.
policy::ParseResult ParseWithSets(std::string_view text, const std::string& path);

// All errors of a faulty configuration, a line each, as one Status.
absl::Status ConfigErrors(const policy::ParseResult& parsed);

}  // namespace tpx::app
