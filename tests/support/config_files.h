// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tpx/policy/parse.h"

namespace tpx::policy {

inline absl::StatusOr<std::string> ReadWholeFile(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in || std::filesystem::is_directory(path)) return absl::NotFoundError("no such file");
  return std::string(std::istreambuf_iterator<char>(in), {});
}

// The configurations of tests/configs/<kind>, sorted.
inline std::vector<std::filesystem::path> ConfigFiles(const std::string& kind) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(TPX_SOURCE_DIR "/tests/configs/" + kind)) {
    if (entry.path().extension() == ".yaml") files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

inline ParseResult ParseFile(const std::filesystem::path& path) {
  return ParseConfig(*ReadWholeFile(path), path.filename().string(),
                     [&](const std::string& name) { return ReadWholeFile(path.parent_path() / name); });
}

// For texts that name no files.
inline ParseResult ParseText(std::string_view text) {
  return ParseConfig(text, "test.yaml", [](const std::string&) -> absl::StatusOr<std::string> {
    return absl::NotFoundError("no such file");
  });
}

// Everything that was reported, one a line; for messages of tests.
inline std::string AllText(const std::vector<Diagnostic>& diagnostics) {
  std::string text;
  for (const Diagnostic& diagnostic : diagnostics) text += diagnostic.ToString() + "\n";
  return text;
}

}  // namespace tpx::policy
