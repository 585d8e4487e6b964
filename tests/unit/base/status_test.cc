// SPDX-License-Identifier: Apache-2.0
#include "tpx/base/status.h"

#include <gtest/gtest.h>

#include <cerrno>

namespace tpx {
namespace {

TEST(ErrnoStatus, NamesTheCallAndTheError) {
  absl::Status status = ErrnoStatus(ENOENT, "open /run/x");
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(status.message(), "open /run/x: No such file or directory");
}

TEST(ErrnoStatus, SurvivesUnknownNumbers) {
  EXPECT_EQ(ErrnoStatus(99999, "f").message(), "f: unknown error");
}

TEST(Annotate, PutsTheContextInFront) {
  absl::Status status = Annotate(absl::NotFoundError("gone"), std::string_view("load"));
  EXPECT_EQ(status, absl::NotFoundError("load: gone"));
  EXPECT_TRUE(Annotate(absl::OkStatus(), "load").ok());
}

absl::StatusOr<int> Half(int value) {
  if (value % 2 != 0) return absl::InvalidArgumentError("odd");
  return value / 2;
}

absl::StatusOr<int> Quarter(int value) {
  TPX_ASSIGN_OR_RETURN(int half, Half(value));
  TPX_RETURN_IF_ERROR(Half(half).status());
  return Half(half);
}

TEST(Macros, HandErrorsOn) {
  EXPECT_EQ(*Quarter(8), 2);
  EXPECT_EQ(Quarter(6).status().message(), "odd");
  EXPECT_EQ(Quarter(3).status().message(), "odd");
}

}  // namespace
}  // namespace tpx
