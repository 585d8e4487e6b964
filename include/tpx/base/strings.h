// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace tpx {

// Distributions build abseil with a string_view of its own, to which
// std::string_view does not convert.
inline absl::string_view ToAbsl(std::string_view text) { return {text.data(), text.size()}; }
inline std::string_view ToStd(absl::string_view text) { return {text.data(), text.size()}; }

namespace internal {
template <typename T>
const T& Piece(const T& value) {
  return value;
}
inline absl::string_view Piece(const std::string_view& text) { return ToAbsl(text); }
}  // namespace internal

// absl::StrCat that takes std::string_view as well.
template <typename... Args>
std::string StrCat(const Args&... args) {
  return absl::StrCat(internal::Piece(args)...);
}

// `text` in single quotes for a message: shortened, control bytes escaped.
std::string Quote(std::string_view text);

}  // namespace tpx
