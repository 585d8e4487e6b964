// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tpx::policy {

// The candidate that `word` was probably meant to be, if one is near enough:
// optimal string alignment distance of at most a third of its length.
std::optional<std::string_view> Nearest(std::string_view word,
                                        const std::vector<std::string_view>& candidates);

// ", did you mean 'x'?" or " (expected one of: a, b, c)"; empty without candidates.
std::string Suggestion(std::string_view word, const std::vector<std::string_view>& candidates);

}  // namespace tpx::policy
