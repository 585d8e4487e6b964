// SPDX-License-Identifier: Apache-2.0
// Every configuration of tests/configs: the good ones are accepted, each bad one gets
// the error, at the place, that its first line names.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <regex>

#include "support/config_files.h"
#include "tpx/base/strings.h"
#include "tpx/policy/compile.h"

namespace tpx::policy {
namespace {

std::string TestName(const testing::TestParamInfo<std::filesystem::path>& info) {
  return std::regex_replace(info.param.stem().string(), std::regex("[^A-Za-z0-9]"), "_");
}

class GoodConfig : public testing::TestWithParam<std::filesystem::path> {};

TEST_P(GoodConfig, IsAcceptedAndCompiles) {
  ParseResult result = ParseFile(GetParam());
  EXPECT_TRUE(result.ok()) << AllText(result.errors);
  EXPECT_TRUE(Compile(result.config.policy).ok());
  bool warns = GetParam().stem() == "empty-set" || GetParam().stem() == "empty-set-file" ||
               GetParam().stem() == "shadowed";
  EXPECT_EQ(result.warnings.size(), warns ? 1u : 0u) << AllText(result.warnings);
}

INSTANTIATE_TEST_SUITE_P(Corpus, GoodConfig, testing::ValuesIn(ConfigFiles("good")), TestName);

class BadConfig : public testing::TestWithParam<std::filesystem::path> {};

TEST_P(BadConfig, IsRefusedAtTheRightPlace) {
  std::string text = *ReadWholeFile(GetParam());
  std::smatch match;
  std::string first = text.substr(0, text.find('\n'));
  ASSERT_TRUE(std::regex_match(first, match, std::regex("# expect: (?:([^ :]+):)?([0-9]+):([0-9]+): (.+)")));
  std::string file = match[1].matched ? match[1].str() : GetParam().filename().string();
  std::string expected = StrCat(file, ":", match[2].str(), ":", match[3].str(), ": ");
  ParseResult result = ParseFile(GetParam());
  ASSERT_FALSE(result.errors.empty());
  EXPECT_THAT(result.errors[0].ToString(), testing::StartsWith(expected));
  EXPECT_THAT(result.errors[0].message, testing::HasSubstr(match[4].str()));
  EXPECT_EQ(result.errors.size(), 1u) << AllText(result.errors);
}

INSTANTIATE_TEST_SUITE_P(Corpus, BadConfig, testing::ValuesIn(ConfigFiles("bad")), TestName);

}  // namespace
}  // namespace tpx::policy
