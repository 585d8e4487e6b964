// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tpx {

// Turns the errno of a failed call into a Status: "<operation>: <strerror>".
// `error` is a positive errno. Used once, at the call; callers above add
// context with Annotate and never look at errno again.
absl::Status ErrnoStatus(int error, std::string_view operation);

// "<context>: <message of status>", same code. OK stays OK.
absl::Status Annotate(const absl::Status& status, std::string_view context);

}  // namespace tpx

#define TPX_RETURN_IF_ERROR(expr)                                                 \
  do {                                                                            \
    if (absl::Status tpx_status_ = (expr); !tpx_status_.ok()) return tpx_status_; \
  } while (false)

#define TPX_CONCAT_INNER_(a, b) a##b
#define TPX_CONCAT_(a, b) TPX_CONCAT_INNER_(a, b)
#define TPX_ASSIGN_OR_RETURN(lhs, expr) \
  TPX_ASSIGN_OR_RETURN_IMPL_(TPX_CONCAT_(tpx_statusor_, __LINE__), lhs, expr)
#define TPX_ASSIGN_OR_RETURN_IMPL_(result, lhs, expr)  \
  auto result = (expr);                                \
  if (!result.ok()) return std::move(result).status(); \
  lhs = *std::move(result)
