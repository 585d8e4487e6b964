// SPDX-License-Identifier: Apache-2.0
#include "tpx/base/strings.h"

#include "absl/strings/escaping.h"

namespace tpx {

std::string Quote(std::string_view text) {
  constexpr size_t kShown = 64;
  bool cut = text.size() > kShown;
  // Not in the middle of a UTF-8 sequence.
  size_t shown = cut ? kShown : text.size();
  while (cut && shown > 0 && (static_cast<unsigned char>(text[shown]) & 0xc0) == 0x80) --shown;
  return StrCat("'", absl::Utf8SafeCEscape(ToAbsl(text.substr(0, shown))), cut ? "..." : "", "'");
}

}  // namespace tpx
