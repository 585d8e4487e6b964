// SPDX-License-Identifier: Apache-2.0
#include "tpx/base/mac.h"

#include <gtest/gtest.h>

namespace tpx {
namespace {

TEST(ParseMac, TakesBothCases) {
  EXPECT_EQ(ParseMac("00:00:5e:00:53:01"), (MacAddress{0, 0, 0x5e, 0, 0x53, 1}));
  EXPECT_EQ(ParseMac("AB:cd:Ef:09:9f:F0"), (MacAddress{0xab, 0xcd, 0xef, 0x09, 0x9f, 0xf0}));
}

TEST(ParseMac, TakesNothingElse) {
  for (const char* text :
       {"", "00:00:5e:00:53", "00:00:5e:00:53:1", "00:00:5e:00:53:001", "00-00-5e-00-53-01",
        "00:00:5e:00:53:0g", "00:00:5e:00:53:01 ", " 0:00:5e:00:53:01", "0000:5e:00:53:01:"}) {
    EXPECT_EQ(ParseMac(text), std::nullopt) << text;
  }
}

}  // namespace
}  // namespace tpx
