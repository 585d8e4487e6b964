// SPDX-License-Identifier: Apache-2.0
#include "tpx/base/status.h"

#include <cstring>

#include "tpx/base/strings.h"

namespace tpx {

absl::Status ErrnoStatus(int error, std::string_view operation) {
  return {
      absl::ErrnoToStatusCode(error),
      StrCat(operation, ": ", strerrordesc_np(error) != nullptr ? strerrordesc_np(error) : "unknown error")};
}

absl::Status Annotate(const absl::Status& status, std::string_view context) {
  if (status.ok()) return status;
  return {status.code(), StrCat(context, ": ", status.message())};
}

}  // namespace tpx
