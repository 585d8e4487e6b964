// SPDX-License-Identifier: Apache-2.0
#include "policy/yaml_tree.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tpx/base/strings.h"

namespace tpx::policy {
namespace {

using Kind = YamlNode::Kind;

Kind KindOf(std::string_view scalar) {
  YamlTree tree;
  std::optional<YamlError> error = tree.Load(StrCat("[", scalar, "]"));
  EXPECT_FALSE(error) << error->message;
  return tree.root().children.at(0)->kind;
}

TEST(YamlTree, GivesScalarsTheTypesOfTheCoreSchema) {
  for (auto text : {"~", "null", "Null", "NULL"}) EXPECT_EQ(KindOf(text), Kind::kNull) << text;
  for (auto text : {"true", "False", "TRUE"}) EXPECT_EQ(KindOf(text), Kind::kBool) << text;
  for (auto text : {"0", "-1", "+12", "0x1F", "0o17", "010"}) EXPECT_EQ(KindOf(text), Kind::kInt) << text;
  for (auto text : {"1.", ".5", "-1.5", "1e3", "1.5E-3", ".inf", "-.Inf", ".nan"}) {
    EXPECT_EQ(KindOf(text), Kind::kFloat) << text;
  }
  for (auto text : {"yes", "no", "on", "0x", "0xg", "1-2", "10.0.0.0/8", "1.2.3", ".", "e3", "1e", "\"1\"",
                    "'~'", "10s"}) {
    EXPECT_EQ(KindOf(text), Kind::kString) << text;
  }
}

TEST(YamlTree, KnowsThePlaceOfEveryNode) {
  YamlTree tree;
  ASSERT_FALSE(tree.Load("a: 1\nb:\n  - é: x\n    y: {z: 2}\n"));
  const YamlNode& root = tree.root();
  ASSERT_EQ(root.children.size(), 4u);
  const YamlNode& list = *root.children[3];
  EXPECT_EQ(list.line, 3);
  EXPECT_EQ(list.column, 3);
  const YamlNode& map = *list.children[0];
  EXPECT_EQ(map.column, 5);
  EXPECT_EQ(map.children[3]->line, 4);
  EXPECT_EQ(map.children[3]->column, 8);
}

TEST(YamlTree, SharesWhatAliasesStandForAndCountsItEachTime) {
  YamlTree tree;
  ASSERT_FALSE(tree.Load("a: &x [1, 2]\nb: *x\n"));
  EXPECT_EQ(tree.root().children[1], tree.root().children[3]);
  EXPECT_EQ(tree.root().size, 1u + 2u + 3u + 3u);
}

TEST(YamlTree, BoundsDepthWhateverTheNotation) {
  auto nested = [](std::string_view open, int times) {
    std::string text;
    for (int i = 0; i < times; ++i) text += open;
    return text;
  };
  for (std::string_view open : {"[", "{a: ", "- ", "? ", "[? "}) {
    for (int times : {40, 400, 100'000}) {
      YamlTree tree;
      EXPECT_TRUE(tree.Load(nested(open, times))) << open << " " << times;
    }
  }
  YamlTree tree;
  EXPECT_FALSE(tree.Load(nested("[", kMaxYamlDepth) + nested("]", kMaxYamlDepth)));
  YamlTree deeper;
  std::optional<YamlError> error =
      deeper.Load(nested("[", kMaxYamlDepth + 1) + nested("]", kMaxYamlDepth + 1));
  ASSERT_TRUE(error);
  EXPECT_EQ(error->message, "nested deeper than 32 levels");
  EXPECT_EQ(error->column, kMaxYamlDepth + 1);
}

TEST(YamlTree, CountsExpandedNodesExactly) {
  // 2000 elements, then aliases of them up to the limit.
  std::string text = "[&x [";
  for (int i = 0; i < 1999; ++i) text += "1,";
  text += "]";
  for (size_t i = 1; i < kMaxYamlNodes / 2000; ++i) text += ",*x";
  YamlTree over;
  EXPECT_TRUE(over.Load(text + "]"));
  YamlTree under;
  EXPECT_FALSE(under.Load(text.substr(0, text.size() - 3) + "]"));
  EXPECT_EQ(under.root().size, kMaxYamlNodes - 2000 + 1);
}

}  // namespace
}  // namespace tpx::policy
