// SPDX-License-Identifier: Apache-2.0
#include <netinet/in.h>

#include <cstdlib>
#include <string>
#include <string_view>

#include "tpx/policy/compile.h"
#include "tpx/policy/parse.h"

namespace {

using tpx::policy::Diagnostic;

// Set files: "self" is the input once more, so that its lines are fuzzed as such a file too.
absl::StatusOr<std::string> ReadSetFile(std::string_view input, const std::string& path) {
  if (path == "self") return std::string(input);
  if (path.ends_with(".txt")) return std::string("# nets\n192.0.2.0/24\n 2001:db8::/32 # v6\n");
  return absl::NotFoundError("no such file");
}

// Names of one letter are there.
tpx::policy::OwnerLookup Owners() {
  auto find = [](const std::string& name) -> absl::StatusOr<uint32_t> {
    if (name.size() == 1) return static_cast<unsigned char>(name[0]);
    return absl::NotFoundError("none");
  };
  auto last = [](const std::string& path) -> absl::StatusOr<uint64_t> {
    if (path.size() < 4) return path.size() * 256 + static_cast<unsigned char>(path.back());
    return absl::NotFoundError("none");
  };
  return {.user = find,
          .group = find,
          .cgroup = last,
          .program = [last](const std::string& path) -> absl::StatusOr<tpx::policy::FileId> {
            const absl::StatusOr<uint64_t> inode = last(path);
            if (!inode.ok()) return inode.status();
            return tpx::policy::FileId{.inode = *inode, .device = 1};
          }};
}

void Check(const Diagnostic& diagnostic) {
  if (diagnostic.message.empty() || diagnostic.line < 1 || diagnostic.column < 1) abort();
  for (char c : diagnostic.ToString()) {
    if (static_cast<unsigned char>(c) < ' ' && diagnostic.file == "fuzz.yaml") abort();
  }
}

void Check(const tpx::policy::Rule& rule) {
  const bool redirect = rule.action == TPX_ACTION_REDIRECT;
  if (redirect != (rule.target.port != 0)) abort();
  if (redirect && rule.source != TPX_SOURCE_MASQUERADE) abort();
  if (rule.is_proxied() && rule.protocols.empty()) abort();
  for (const tpx::policy::IdRange range : rule.uids) {
    if (range.last < range.first || range.last == UINT32_MAX) abort();
  }
  for (uint8_t protocol : rule.protocols) {
    if (rule.is_proxied() && protocol != IPPROTO_TCP && protocol != IPPROTO_UDP) abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view text(reinterpret_cast<const char*>(data), size);
  tpx::policy::ParseResult result = tpx::policy::ParseConfig(
      text, "fuzz.yaml", [&](const std::string& path) { return ReadSetFile(text, path); }, {}, Owners());
  for (const Diagnostic& error : result.errors) Check(error);
  for (const Diagnostic& warning : result.warnings) Check(warning);
  if (result.errors.size() > tpx::policy::kMaxErrors) abort();
  if (!result.ok()) return 0;
  if (result.config.interfaces.lan.empty() || !tpx::policy::Compile(result.config.policy).ok()) abort();
  for (const tpx::policy::Rule& rule : result.config.policy.rules) Check(rule);
  return 0;
}
