// SPDX-License-Identifier: Apache-2.0
#include "control/journal.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "control/instance.h"

namespace tpx::control {
namespace {

const std::vector<JournalEntry> kEntries = {
    NetnsEntry{4026531840},
    BpffsEntry{"/sys/fs/with a blank"},
    QdiscEntry{7},
    DispatcherEntry{8},
    FilterEntry{{.ifindex = 7, .priority = 1, .handle = 9}},
    sys::PolicyRule{
        .family = sys::Family::kIpv6, .iif = "eth0.100", .mark = 1, .mask = 3, .table = 9, .priority = 4},
    sys::LocalRoute{.family = sys::Family::kIpv4, .table = 9},
};

class JournalTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/tpx-journal-XXXXXX";
    paths_.state = mkdtemp(pattern);
  }
  void TearDown() override { EXPECT_EQ(system(("rm -r " + paths_.state).c_str()), 0); }
  Paths paths_;
};

TEST_F(JournalTest, EntriesSurviveTheWayThroughTheFile) {
  auto journal = Journal::Open(paths_, nullptr);
  ASSERT_TRUE(journal.ok());
  for (const JournalEntry& entry : kEntries) ASSERT_TRUE(journal->Record(entry, "testing").ok());
  const auto read = ReadJournal(paths_);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, kEntries);
}

TEST_F(JournalTest, NoFileMeansNoEntries) { EXPECT_TRUE(ReadJournal(paths_)->empty()); }

TEST_F(JournalTest, TornLastLineIsLeftOut) {
  std::ofstream(JournalPath(paths_)) << "netns 5\nqdisc 1";
  const auto read = ReadJournal(paths_);
  ASSERT_TRUE(read.ok());
  EXPECT_EQ(*read, std::vector<JournalEntry>{NetnsEntry{5}});
  std::ofstream(JournalPath(paths_)) << "net";
  EXPECT_TRUE(ReadJournal(paths_)->empty());
}

TEST_F(JournalTest, UnknownLineIsAnError) {
  for (const char* line : {"flux 1\n", "qdisc x\n", "rule 5 eth0 1 1 1 1\n", "route 4\n"}) {
    std::ofstream(JournalPath(paths_)) << line;
    EXPECT_FALSE(ReadJournal(paths_).ok()) << line;
  }
}

TEST_F(JournalTest, EntryIsOnDiskBeforeTheCheckpointIsAsked) {
  size_t on_disk = 0;
  auto journal = Journal::Open(paths_, [&](std::string_view) {
    on_disk = ReadJournal(paths_)->size();
    return absl::AbortedError("stop");
  });
  EXPECT_FALSE(journal->Record(QdiscEntry{1}, "testing").ok());
  EXPECT_EQ(on_disk, 1U);
  EXPECT_EQ(journal->doing(), "testing");
}

TEST_F(JournalTest, ForgetsWhatIsDoneAndRepeated) {
  auto journal = Journal::Open(paths_, nullptr);
  for (const JournalEntry& entry : kEntries) ASSERT_TRUE(journal->Record(entry, "").ok());
  ASSERT_TRUE(journal->Record(kEntries[0], "").ok());
  const auto done = [](const JournalEntry& entry) {
    return entry == kEntries[2] || entry == kEntries[4] || entry == kEntries[5];
  };
  ASSERT_TRUE(journal->Forget(paths_, done).ok());
  ASSERT_TRUE(journal->Record(QdiscEntry{8}, "").ok());
  EXPECT_EQ(*ReadJournal(paths_),
            (std::vector<JournalEntry>{kEntries[0], kEntries[1], kEntries[3], kEntries[6], QdiscEntry{8}}));
}

}  // namespace
}  // namespace tpx::control
