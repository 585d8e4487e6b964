// SPDX-License-Identifier: Apache-2.0
#include "tpx/policy/prefix_list.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "tpx/base/strings.h"

namespace tpx::policy {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

struct Parsed {
  std::vector<std::string> prefixes, errors;
};

std::vector<std::string> Texts(const std::vector<Prefix>& prefixes) {
  std::vector<std::string> texts;
  for (const Prefix& prefix : prefixes) texts.push_back(prefix.ToString());
  return texts;
}

Parsed Parse(std::string_view text, size_t max_prefixes = 100, size_t max_errors = 100) {
  Parsed parsed;
  const PrefixListReader reader{.on_error = [&](int line, int column, const std::string& message) {
    parsed.errors.push_back(StrCat(line, ":", column, ": ", message));
    return parsed.errors.size() < max_errors;
  }};
  parsed.prefixes = Texts(ParsePrefixList(text, max_prefixes, reader));
  return parsed;
}

Prefix Net(std::string_view text) { return *Prefix::Parse(text); }

TEST(ParsePrefixList, TakesBothFamiliesWithCommentsAndBlanks) {
  const Parsed parsed = Parse(
      "# a list\r\n"
      "; of another kind\n"
      "\n"
      "192.0.2.0/24\r\n"
      " \t198.51.100.7  # one address\n"
      "2001:db8::/32;a network\n"
      "   \t\r\n"
      "0.0.0.0/0\n"
      "2001:db8::1");
  EXPECT_THAT(parsed.errors, IsEmpty());
  EXPECT_THAT(parsed.prefixes, ElementsAre("192.0.2.0/24", "198.51.100.7/32", "2001:db8::/32", "0.0.0.0/0",
                                           "2001:db8::1/128"));
}

TEST(ParsePrefixList, NothingIsAnEmptyList) {
  for (const char* text : {"", "\n", "# nothing", "\r\n\r\n", " "}) {
    EXPECT_THAT(Parse(text).errors, IsEmpty());
    EXPECT_THAT(Parse(text).prefixes, IsEmpty());
  }
}

TEST(ParsePrefixList, TellsWhatIsWrongAndWhere) {
  const Parsed parsed = Parse(
      "192.0.2.1/24\n"
      "198.51.100.1\n"
      "  name.example\n"
      "192.0.2.0/24 198.51.100.0/24\n"
      "192.0.2.0/33\n"
      "192.0.2.01\n"
      "::ffff:192.0.2.1\n");
  EXPECT_THAT(parsed.prefixes, ElementsAre("198.51.100.1/32"));
  EXPECT_THAT(parsed.errors,
              ElementsAre("1:1: '192.0.2.1/24' has bits set behind its length, did you mean 192.0.2.0/24",
                          "3:3: 'name.example' is not an address or prefix",
                          "4:14: unexpected '198.51.100.0/24' behind '192.0.2.0/24': one prefix a line, "
                          "comments begin with '#' or ';'",
                          "5:1: prefix length of '192.0.2.0/33' is not a number from 0 to 32",
                          "6:1: '192.0.2.01' is not an address or prefix",
                          "7:1: '::ffff:192.0.2.1' is an IPv4-mapped prefix, write 192.0.2.1/32"));
}

TEST(ParsePrefixList, StopsWhereTheReaderSaysSo) {
  EXPECT_EQ(Parse("a\nb\nc\nd\n", 100, 2).errors.size(), 2u);
}

TEST(ParsePrefixList, LimitsLinesAndPrefixes) {
  const std::string full = StrCat("192.0.2.1", std::string(kMaxSetLineBytes - 9, ' '));
  EXPECT_THAT(Parse(StrCat(full, "\n")).errors, IsEmpty());
  EXPECT_THAT(Parse(StrCat("\n", full, " \n192.0.2.2")).errors,
              ElementsAre("2:1025: the line is longer than 1024 bytes"));
  EXPECT_THAT(Parse("192.0.2.1\n192.0.2.2\n# end\n", 2).errors, IsEmpty());
  const Parsed many = Parse("192.0.2.1\n192.0.2.2\n\n192.0.2.3\nwrong", 2);
  EXPECT_THAT(many.errors, ElementsAre("4:1: more than 2 prefixes"));
  EXPECT_EQ(many.prefixes.size(), 2u);
}

TEST(ParsePrefixList, TellsHowFarItIs) {
  std::string text;
  for (int i = 0; i < 100'000; ++i) text += "192.0.2.1\n";
  std::vector<size_t> seen;
  const PrefixListReader reader{.on_error = [](int, int, const std::string&) { return true; },
                                .on_progress = [&](size_t bytes) { seen.push_back(bytes); }};
  EXPECT_EQ(ParsePrefixList(text, 200'000, reader).size(), 100'000u);
  ASSERT_GT(seen.size(), 2u);
  EXPECT_TRUE(std::is_sorted(seen.begin(), seen.end()));
  EXPECT_LE(seen.back(), text.size());
}

// The fast way for IPv4 takes what Prefix::Parse takes, and nothing else.
TEST(ParsePrefixList, AgreesWithTheParserOfPrefixes) {
  std::mt19937 random(1);
  constexpr std::string_view kBytes = "0123456789./.0125";
  size_t good = 0;
  for (int i = 0; i < 200'000; ++i) {
    std::string text = StrCat(random() % 300, ".", random() % 300, ".", random() % 4, ".", random() % 4 * 64,
                              "/", random() % 40);
    if (random() % 2 == 0) text[random() % text.size()] = kBytes[random() % kBytes.size()];
    if (random() % 4 == 0) text = text.substr(0, random() % text.size() + 1);
    const absl::StatusOr<Prefix> expected = Prefix::Parse(text);
    const Parsed parsed = Parse(text);
    ASSERT_EQ(parsed.prefixes.size(), expected.ok() ? 1u : 0u) << text;
    if (expected.ok()) {
      ASSERT_EQ(parsed.prefixes[0], expected->ToString());
    }
    good += expected.ok();
  }
  EXPECT_GT(good, 1000u);
}

TEST(MergePrefixes, LeavesOutWhatOthersContain) {
  std::vector<Prefix> prefixes = {Net("10.1.0.0/16"),    Net("2001:db8::/32"), Net("10.0.0.0/8"),
                                  Net("10.0.0.0/8"),     Net("192.0.2.1"),     Net("2001:db8:1::/48"),
                                  Net("10.255.255.255"), Net("11.0.0.0/16"),   Net("::/64"),
                                  Net("::1:0:0:0/128")};
  MergePrefixes(prefixes);
  EXPECT_THAT(Texts(prefixes),
              ElementsAre("::/64", "10.0.0.0/8", "11.0.0.0/16", "192.0.2.1/32", "2001:db8::/32"));
}

TEST(MergePrefixes, KeepsTheFamiliesApart) {
  std::vector<Prefix> prefixes = {Net("0.0.0.0/0"), Net("::/0"), Net("192.0.2.0/24"), Net("2001:db8::/32")};
  MergePrefixes(prefixes);
  EXPECT_THAT(Texts(prefixes), ElementsAre("::/0", "0.0.0.0/0"));
}

TEST(AppendPrefixList, IsReadAgain) {
  const std::vector<Prefix> prefixes = {Net("::/0"), Net("0.0.0.0/0"), Net("192.0.2.1"),
                                        Net("2001:db8:0:1::/64"), Net("2001:db8::10:0:abc/128")};
  std::string text;
  AppendPrefixList(prefixes, text);
  EXPECT_EQ(text, "::/0\n0.0.0.0/0\n192.0.2.1/32\n2001:db8:0:1::/64\n2001:db8::10:0:abc/128\n");
  EXPECT_EQ(Parse(text).prefixes, Texts(prefixes));
}

}  // namespace
}  // namespace tpx::policy
