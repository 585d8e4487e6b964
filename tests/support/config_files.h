// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
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

// A machine with few users, groups, cgroups and programs.
inline OwnerLookup TestOwners() {
  auto find = []<typename T>(const std::map<std::string, T>& all, const std::string& name) {
    const auto found = all.find(name);
    return found == all.end() ? absl::StatusOr<T>(absl::NotFoundError("none")) : found->second;
  };
  const std::map<std::string, uint32_t> users = {{"root", 0}, {"daemon", 1}, {"alice", 1000}};
  const std::map<std::string, uint32_t> groups = {{"root", 0}, {"daemon", 1}, {"staff", 50}};
  const std::map<std::string, uint64_t> cgroups = {
      {"/", 1}, {"/user.slice", 10}, {"/user.slice/a", 11}, {"/user.slice/a/b", 12}, {"/system.slice", 20}};
  const std::map<std::string, FileId> programs = {
      {"/usr/bin/curl", {100, 7}}, {"/usr/bin/dig", {101, 7}}, {"/bin/dig", {101, 7}}};
  return {.user = [=](const std::string& name) { return find(users, name); },
          .group = [=](const std::string& name) { return find(groups, name); },
          .cgroup = [=](const std::string& path) { return find(cgroups, path); },
          .program =
              [=](const std::string& path) {
                if (path == "/dev")
                  return absl::StatusOr<FileId>(absl::InvalidArgumentError("not a regular file"));
                return find(programs, path);
              }};
}

inline ParseResult ParseFile(const std::filesystem::path& path) {
  return ParseConfig(
      *ReadWholeFile(path), path.filename().string(),
      [&](const std::string& name) { return ReadWholeFile(path.parent_path() / name); }, {}, TestOwners());
}

// For texts that name no files.
inline ParseResult ParseText(std::string_view text) {
  return ParseConfig(
      text, "test.yaml",
      [](const std::string&) -> absl::StatusOr<std::string> { return absl::NotFoundError("no such file"); },
      {}, TestOwners());
}

// Everything that was reported, one a line; for messages of tests.
inline std::string AllText(const std::vector<Diagnostic>& diagnostics) {
  std::string text;
  for (const Diagnostic& diagnostic : diagnostics) text += diagnostic.ToString() + "\n";
  return text;
}

}  // namespace tpx::policy
