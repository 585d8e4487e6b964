// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tpx/control/lifecycle.h"
#include "tpx/policy/parse.h"

namespace tpx::app {

inline constexpr char kDefaultConfigPath[] = "/etc/tpx-bpf/config.yaml";

// A configuration and the text it came from, which is kept with the loaded
// state so that `run` without a file serves what was loaded.
struct Source {
  policy::Config config;
  std::string text;
  std::string origin;  // for messages: the file, "--lan", or "the loaded state"
  std::vector<std::string> warnings;
};

struct SourceRequest {
  std::string config;                 // a file, or empty
  std::vector<std::string> lan, wan;  // devices, or empty
};

// In this order: the file asked for; the devices asked for (all TCP and UDP from them
// is proxied, failing open); what is loaded, when prefer_loaded; the file at
// kDefaultConfigPath. The error says what can be given.
absl::StatusOr<Source> FindSource(const SourceRequest& request, const control::Paths& paths,
                                  bool prefer_loaded);

struct RereadSets {
  policy::Config config;
  std::vector<std::string> warnings;
};

// The loaded configuration with the files of its sets as they are now; nothing else
// is read. The error says so where it has no set in a file.
absl::StatusOr<RereadSets> RereadSetsOf(const control::StoredConfig& loaded);

}  // namespace tpx::app
