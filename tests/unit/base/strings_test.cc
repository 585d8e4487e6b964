// SPDX-License-Identifier: Apache-2.0
#include "tpx/base/strings.h"

#include <gtest/gtest.h>

namespace tpx {
namespace {

TEST(StrCat, TakesEveryKindOfString) {
  std::string owned = "b";
  EXPECT_EQ(StrCat("a", owned, std::string_view("c"), absl::string_view("d"), 5, std::string_view("f")),
            "abcd5f");
}

TEST(Quote, EscapesControlBytesAndKeepsUtf8) {
  EXPECT_EQ(Quote("a\n\x1b[m'"), R"('a\n\033[m\'')");
  EXPECT_EQ(Quote("é"), "'é'");
}

TEST(Quote, ShortensBetweenCharacters) {
  EXPECT_EQ(Quote(std::string(65, 'x')), "'" + std::string(64, 'x') + "...'");
  EXPECT_EQ(Quote(std::string(63, 'x') + "é"), "'" + std::string(63, 'x') + "...'");
  EXPECT_EQ(Quote(std::string(64, 'x')), "'" + std::string(64, 'x') + "'");
}

}  // namespace
}  // namespace tpx
