// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "tpx/policy/config.h"

namespace tpx::policy {

struct Diagnostic {
  std::string file;
  int line = 0;    // from 1; 0 where there is none
  int column = 0;  // from 1
  std::string message;
  std::string ToString() const;  // file:line:column: message
};

struct ParseResult {
  Config config;  // meaningful only when errors is empty
  std::vector<Diagnostic> errors;
  std::vector<Diagnostic> warnings;
  bool ok() const { return errors.empty(); }
};

// Reads a file that the configuration names (a set); relative paths are
// relative to the configuration's folder, which the reader knows.
using FileReader = std::function<absl::StatusOr<std::string>(const std::string& path)>;

// Told now and then how much of the file of a set was read, of how many bytes.
using SetProgress = std::function<void(const std::string& file, size_t done, size_t total)>;

// What names of rules stand for on this machine. Each fails with kNotFound where
// there is no such thing: for users and groups that is an error of the
// configuration; a rule does not match what else is missing, which is a warning.
struct OwnerLookup {
  std::function<absl::StatusOr<uint32_t>(const std::string&name)> user, group;
  std::function<absl::StatusOr<uint64_t>(const std::string& path)> cgroup;
  std::function<absl::StatusOr<FileId>(const std::string& path)> program;
};

// Limits of the input, each an error when passed.
inline constexpr size_t kMaxConfigBytes = 4 << 20;
inline constexpr size_t kMaxSetFileBytes = 64 << 20;
inline constexpr size_t kMaxErrors = 20;

// Parses a whole configuration. Never throws; reports up to kMaxErrors errors,
// all of them with a position. `file` is only used in messages. Without a lookup
// there is nothing that names could stand for.
ParseResult ParseConfig(std::string_view text, std::string_view file, const FileReader& read_file,
                        const SetProgress& progress = {}, const OwnerLookup& owners = {});

}  // namespace tpx::policy
