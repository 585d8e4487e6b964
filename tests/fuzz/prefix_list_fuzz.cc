// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>
#include <string>
#include <string_view>

#include "tpx/policy/prefix_list.h"

namespace {

using tpx::Prefix;
using tpx::policy::AppendPrefixList;
using tpx::policy::MergePrefixes;
using tpx::policy::ParsePrefixList;

constexpr size_t kMaxPrefixes = 1000, kMaxErrors = 20;

// Errors are in the order of the text, at places that it has.
std::vector<Prefix> Parse(std::string_view text, size_t& errors) {
  int last = 0;
  return ParsePrefixList(text, kMaxPrefixes,
                         {.on_error = [&](int line, int column, const std::string& message) {
                           if (line <= last || column < 1 || message.empty()) abort();
                           last = line;
                           return ++errors < kMaxErrors;
                         }});
}

bool Covered(const std::vector<Prefix>& prefixes, const Prefix& by) {
  for (const Prefix& prefix : prefixes) {
    if (prefix.length <= by.length && prefix.Contains(by.addr)) return true;
  }
  return false;
}

}  // namespace

// What is accepted is written in one way, which is accepted again, line by line; merging keeps the
// addresses and leaves nothing inside another.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view text(reinterpret_cast<const char*>(data), size);
  size_t errors = 0;
  std::vector<Prefix> prefixes = Parse(text, errors);
  if (prefixes.size() > kMaxPrefixes || errors > kMaxErrors) abort();
  std::string again;
  AppendPrefixList(prefixes, again);
  size_t none = 0;
  if (Parse(again, none) != prefixes || none != 0) abort();
  std::vector<Prefix> merged = prefixes;
  MergePrefixes(merged);
  for (const Prefix& prefix : prefixes) {
    if (!Covered(merged, prefix)) abort();
  }
  for (size_t i = 0; i < merged.size(); ++i) {
    std::vector<Prefix> others = merged;
    others.erase(others.begin() + static_cast<long>(i));
    if (i < 50 && Covered(others, merged[i])) abort();
  }
  return 0;
}
