// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "tpx/base/address.h"

namespace tpx::policy {

// Limits of a file of prefixes besides its size, each an error when passed.
inline constexpr size_t kMaxSetLineBytes = 1024;

struct PrefixListReader {
  // Line and column (in bytes) from 1, and what is wrong there. False ends the reading.
  std::function<bool(int line, int column, std::string message)> on_error;
  // Now and then, with how many bytes were read; may be empty.
  std::function<void(size_t bytes)> on_progress{};
};

// One prefix or address a line, of either family; '#' and ';' begin comments, and
// blanks around the prefix, blank lines and a CR before the line's end are ignored.
// Prefixes in the order of the text; lines with errors are left out. Reading ends
// with an error at the first prefix beyond `max_prefixes`.
std::vector<Prefix> ParsePrefixList(std::string_view text, size_t max_prefixes,
                                    const PrefixListReader& reader);

// Sorts, and leaves out duplicates and what others contain.
void MergePrefixes(std::vector<Prefix>& prefixes);

// As ParsePrefixList takes it, one a line.
void AppendPrefixList(const std::vector<Prefix>& prefixes, std::string& text);

}  // namespace tpx::policy
