// SPDX-License-Identifier: Apache-2.0
#include "tpx/io/token.h"

#include <gtest/gtest.h>

namespace tpx::io {
namespace {

TEST(Token, ComesOutAsItWentIn) {
  for (const Token& t :
       {Token{}, Token{.index = UINT32_MAX, .generation = Token::kGenerationMask, .kind = 255},
        Token{.index = 1}, Token{.generation = 1}, Token{.kind = 1},
        Token{.index = 0x12345678, .generation = 0x9abcde, .kind = 0xf0}}) {
    EXPECT_EQ(Token::Unpack(t.Pack()), t);
  }
}

TEST(Token, KeepsAGenerationThatIsTooLargeOutOfTheIndex) {
  const Token t = Token::Unpack(Token{.index = 5, .generation = 0xff000001, .kind = 3}.Pack());
  EXPECT_EQ(t, (Token{.index = 5, .generation = 1, .kind = 3}));
}

}  // namespace
}  // namespace tpx::io
