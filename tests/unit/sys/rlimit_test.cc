// SPDX-License-Identifier: Apache-2.0
#include "tpx/sys/rlimit.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>

namespace tpx::sys {
namespace {

// As /proc tells it.
uint64_t TableSize() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    uint64_t size = 0;
    if (word == "FDSize:" && status >> size) return size;
  }
  return 0;
}

int64_t OpenDescriptors() {
  const std::filesystem::directory_iterator all("/proc/self/fd");
  return std::distance(begin(all), end(all));
}

TEST(DescriptorTable, IsMadeAsLargeAsAskedForAndHoldsNothing) {
  const uint64_t limit = RaiseDescriptorLimit(8192);
  const uint64_t wanted = std::min<uint64_t>(limit, 8192);
  const int64_t open = OpenDescriptors();
  ASSERT_LT(TableSize(), wanted);
  ReserveDescriptorTable(0);
  ASSERT_LT(TableSize(), wanted);
  ReserveDescriptorTable(wanted);
  EXPECT_GE(TableSize(), wanted);
  EXPECT_EQ(OpenDescriptors(), open);
  ReserveDescriptorTable(limit + 1);  // beyond the limit: as it was
  EXPECT_EQ(OpenDescriptors(), open);
}

}  // namespace
}  // namespace tpx::sys
