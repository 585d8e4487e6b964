// SPDX-License-Identifier: Apache-2.0
#include "policy/suggest.h"

#include <gtest/gtest.h>

namespace tpx::policy {
namespace {

TEST(Nearest, FindsMisspellings) {
  const std::vector<std::string_view> words = {"interfaces", "source", "sets", "rules", "default"};
  EXPECT_EQ(Nearest("interface", words), "interfaces");
  EXPECT_EQ(Nearest("sourec", words), "source");
  EXPECT_EQ(Nearest("set", words), "sets");
  EXPECT_EQ(Nearest("defalut", words), "default");
  EXPECT_EQ(Nearest("banana", words), std::nullopt);
  EXPECT_EQ(Nearest(std::string(1000, 'a'), words), std::nullopt);
  EXPECT_EQ(Nearest("", words), std::nullopt);
  EXPECT_EQ(Nearest("x", {"y"}), std::nullopt);
}

TEST(Suggestion, ListsWhatIsPossibleWhereNothingIsNear) {
  EXPECT_EQ(Suggestion("dropp", {"drop", "reject"}), ", did you mean 'drop'?");
  EXPECT_EQ(Suggestion("xyz", {"drop", "reject"}), " (expected one of: drop, reject)");
  EXPECT_EQ(Suggestion("xyz", {}), "");
}

}  // namespace
}  // namespace tpx::policy
