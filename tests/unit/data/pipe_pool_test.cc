// SPDX-License-Identifier: Apache-2.0
#include "tpx/data/pipe_pool.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

namespace tpx::data {
namespace {

TEST(PipePool, LendsNoMoreThanItMay) {
  PipePool pool(2);
  Pipe* a = pool.Borrow(0);
  Pipe* b = pool.Borrow(0);
  ASSERT_TRUE(a != nullptr && b != nullptr);
  EXPECT_GE(a->capacity, PipePool::kUsefulBytes);
  EXPECT_EQ(pool.Borrow(0), nullptr);
  EXPECT_EQ(pool.size(), 2u);
  pool.Return(b);
  EXPECT_EQ(pool.Borrow(0), b) << "and lends the same one again";
}

TEST(PipePool, ReplacesAPipeThatWasDiscarded) {
  PipePool pool(1);
  Pipe* a = pool.Borrow(0);
  ASSERT_NE(a, nullptr);
  pool.Discard(a);
  EXPECT_EQ(pool.size(), 0u);
  a = pool.Borrow(0);
  ASSERT_NE(a, nullptr);
  EXPECT_TRUE(a->in && a->out);
}

TEST(PipePool, WaitsASecondAfterTheSystemRefused) {
  PipePool pool(1);
  rlimit old{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &old), 0);
  const rlimit none{.rlim_cur = 3, .rlim_max = old.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  EXPECT_EQ(pool.Borrow(5000), nullptr);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &old), 0);
  EXPECT_EQ(pool.Borrow(5999), nullptr);
  EXPECT_NE(pool.Borrow(6000), nullptr);
}

}  // namespace
}  // namespace tpx::data
