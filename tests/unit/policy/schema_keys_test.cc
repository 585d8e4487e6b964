// SPDX-License-Identifier: Apache-2.0
// The published schema and the parser know the same keys. The parser lists
// those of a mapping when it meets one that it does not know.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <regex>

#include "absl/strings/str_split.h"
#include "support/config_files.h"
#include "tpx/base/strings.h"

namespace tpx::policy {
namespace {

struct Mapping {
  std::string pointer;  // to its object in the schema
  std::string text;     // a configuration with the unknown key "@" in that mapping
};

std::ostream& operator<<(std::ostream& out, const Mapping& mapping) { return out << mapping.pointer; }

class Keys : public testing::TestWithParam<Mapping> {};

std::vector<std::string> KeysOfParser(const std::string& text) {
  ParseResult result = ParseText(text);
  for (const Diagnostic& error : result.errors) {
    std::smatch match;
    if (!std::regex_search(error.message, match, std::regex("unknown key '@' .*expected one of: ([^)]*)")))
      continue;
    return absl::StrSplit(match[1].str(), ", ");
  }
  ADD_FAILURE() << AllText(result.errors);
  return {};
}

nlohmann::json Schema() {
  return nlohmann::json::parse(*ReadWholeFile(TPX_SOURCE_DIR "/docs/schema/config.schema.json"));
}

TEST_P(Keys, AreThoseOfTheParser) {
  nlohmann::json object = Schema().at(nlohmann::json::json_pointer(GetParam().pointer));
  std::vector<std::string> keys;
  for (const auto& [key, value] : object.at("properties").items()) keys.push_back(key);
  EXPECT_EQ(object.at("additionalProperties"), false);
  EXPECT_THAT(KeysOfParser(GetParam().text), testing::UnorderedElementsAreArray(keys));
}

const std::string kHead = "version: 1\ninterfaces: {lan: eth1}\n";

std::vector<Mapping> Mappings() {
  return {{"", kHead + "'@': 1\n"},
          {"/properties/interfaces", "version: 1\ninterfaces: {lan: eth1, '@': 1}\n"},
          {"/$defs/local", kHead + "local: {'@': 1}\n"},
          {"/properties/steering", kHead + "steering: {'@': 1}\n"},
          {"/properties/proxy", kHead + "proxy: {'@': 1}\n"},
          {"/properties/proxy/properties/keepalive", kHead + "proxy: {keepalive: {'@': 1}}\n"},
          {"/$defs/set_file", kHead + "sets: {a: {'@': 1}}\n"},
          {"/$defs/redirect", kHead + "rules: [{name: a, action: {redirect: '192.0.2.1:53', '@': 1}}]\n"},
          {"/$defs/limit", kHead + "rules: [{name: a, action: proxy, limit: {rate: 1, '@': 1}}]\n"},
          {"/$defs/rule", kHead + "rules: [{name: a, action: drop, '@': 1}]\n"},
          {"/$defs/match", kHead + "rules: [{name: a, action: drop, match: {'@': 1}}]\n"}};
}

INSTANTIATE_TEST_SUITE_P(Schema, Keys, testing::ValuesIn(Mappings()));

// Every closed mapping of the schema is one of those above, or is {not: ...} in a match.
size_t CountClosed(const nlohmann::json& node) {
  size_t count = node.is_object() && node.value("additionalProperties", nlohmann::json()) == false &&
                 !node.at("properties").contains("not");
  if (node.is_structured()) {
    for (const auto& child : node) count += CountClosed(child);
  }
  return count;
}

TEST(SchemaMappings, AreAllCompared) { EXPECT_EQ(CountClosed(Schema()), Mappings().size()); }

}  // namespace
}  // namespace tpx::policy
