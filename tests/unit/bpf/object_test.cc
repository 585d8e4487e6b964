// SPDX-License-Identifier: Apache-2.0
#include "tpx/bpf/object.h"

#include <gmock/gmock.h>

#include <algorithm>

namespace tpx::bpf {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(SummariseLog, NamesTheProgramAndShowsTheEndOfItsLog) {
  std::string log =
      "libbpf: prog 'tpx_lan': BPF program load failed: Permission denied\n"
      "libbpf: prog 'tpx_lan': -- BEGIN PROG LOAD LOG --\n";
  for (int i = 1; i <= 30; ++i) log += "line " + std::to_string(i) + "\n";
  log +=
      "-- END PROG LOAD LOG --\n"
      "libbpf: prog 'tpx_lan': failed to load: -13\nlibbpf: failed to load object 'tpx_bpf'\n";
  const std::string summary = SummariseLog(log);
  EXPECT_THAT(summary, HasSubstr("rejected program tpx_lan:"));
  EXPECT_THAT(summary, Not(HasSubstr("line 10\n")));
  EXPECT_THAT(summary, HasSubstr("line 11\n"));
  EXPECT_TRUE(summary.ends_with("line 30"));
  EXPECT_EQ(std::count(summary.begin(), summary.end(), '\n'), 20);
}

TEST(SummariseLog, TakesTheFirstMessageWhereNoProgramFailed) {
  EXPECT_EQ(
      SummariseLog("libbpf: map 'tpx_flows': failed to create: Cannot allocate memory(-12)\nlibbpf: more\n"),
      "libbpf: map 'tpx_flows': failed to create: Cannot allocate memory(-12)");
}

TEST(SummariseLog, CopesWithAnything) {
  for (const char* log :
       {"", "\n", "-- BEGIN PROG LOAD LOG --\n", "'", "x -- BEGIN PROG LOAD LOG --\nno end"}) {
    (void)SummariseLog(log);
  }
}

}  // namespace
}  // namespace tpx::bpf
