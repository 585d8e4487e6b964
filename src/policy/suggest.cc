// SPDX-License-Identifier: Apache-2.0
#include "policy/suggest.h"

#include <algorithm>
#include <array>

#include "absl/strings/str_join.h"
#include "tpx/base/strings.h"

namespace tpx::policy {
namespace {

constexpr size_t kMaxWord = 64;
constexpr size_t kMaxListed = 24;

// Both at most kMaxWord bytes.
size_t Distance(std::string_view a, std::string_view b) {
  std::array<std::array<size_t, kMaxWord + 1>, kMaxWord + 1> d;
  for (size_t i = 0; i <= a.size(); ++i) d[i][0] = i;
  for (size_t j = 0; j <= b.size(); ++j) d[0][j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    for (size_t j = 1; j <= b.size(); ++j) {
      size_t replace = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
      d[i][j] = std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, replace});
      bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped) d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
    }
  }
  return d[a.size()][b.size()];
}

}  // namespace

std::optional<std::string_view> Nearest(std::string_view word,
                                        const std::vector<std::string_view>& candidates) {
  std::optional<std::string_view> best;
  if (word.size() > kMaxWord) return best;
  size_t limit = std::max<size_t>(1, word.size() / 3);
  for (std::string_view candidate : candidates) {
    size_t gap = std::max(candidate.size(), word.size()) - std::min(candidate.size(), word.size());
    if (candidate.size() > kMaxWord || gap > limit) continue;
    size_t distance = Distance(word, candidate);
    // A word replaced letter by letter is no misspelling.
    if (distance > limit || distance >= std::max(word.size(), candidate.size())) continue;
    best = candidate;
    if (distance == 0) break;
    limit = distance - 1;
  }
  return best;
}

std::string Suggestion(std::string_view word, const std::vector<std::string_view>& candidates) {
  if (candidates.empty()) return "";
  if (std::optional<std::string_view> near = Nearest(word, candidates)) {
    return StrCat(", did you mean '", *near, "'?");
  }
  size_t listed = std::min(candidates.size(), kMaxListed);
  std::string list = absl::StrJoin(candidates.begin(), candidates.begin() + static_cast<long>(listed), ", ",
                                   [](std::string* out, std::string_view name) { out->append(name); });
  return StrCat(" (expected one of: ", list, listed < candidates.size() ? ", ..." : "", ")");
}

}  // namespace tpx::policy
