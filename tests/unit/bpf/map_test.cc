// SPDX-License-Identifier: Apache-2.0
#include "tpx/bpf/map.h"

#include <bpf/bpf.h>
#include <gmock/gmock.h>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cstdlib>

#include "tpx/bpf/shared_array.h"

namespace tpx::bpf {
namespace {

class MapTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0 || unshare(CLONE_NEWNS) != 0) {
      const char* require = getenv("TPX_REQUIRE_PRIV");
      if (require != nullptr && std::string(require) == "1") FAIL() << "cannot make a mount namespace";
      GTEST_SKIP() << "needs root: cannot make a mount namespace";
    }
    ASSERT_EQ(mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr), 0);
    char pattern[] = "/tmp/tpx-map-XXXXXX";
    dir_ = mkdtemp(pattern);
    ASSERT_EQ(mount("bpf", dir_.c_str(), "bpf", 0, "mode=0700"), 0);
  }
  void TearDown() override {
    if (dir_.empty()) return;
    umount2(dir_.c_str(), MNT_DETACH);
    rmdir(dir_.c_str());
  }
  std::string dir_;
};

TEST_F(MapTest, ElementsComeAndGo) {
  auto map = Map<uint32_t, uint64_t>::Create("t", BPF_MAP_TYPE_HASH, 8);
  ASSERT_TRUE(map.ok()) << map.status();
  EXPECT_TRUE(absl::IsNotFound(map->Lookup(1).status()));
  ASSERT_TRUE(map->Update(1, 10).ok());
  ASSERT_TRUE(map->Update(2, 20).ok());
  EXPECT_EQ(*map->Lookup(2), 20U);
  EXPECT_THAT(*map->Keys(), ::testing::UnorderedElementsAre(1U, 2U));
  ASSERT_TRUE(map->Delete(1).ok());
  EXPECT_TRUE(absl::IsNotFound(map->Delete(1)));
}

TEST_F(MapTest, PinOfAnotherShapeIsRefused) {
  auto map = Map<uint32_t, uint64_t>::Create("t", BPF_MAP_TYPE_HASH, 8);
  const std::string path = dir_ + "/t";
  ASSERT_EQ(bpf_obj_pin(map->fd(), path.c_str()), 0);
  EXPECT_TRUE((Map<uint32_t, uint64_t>::OpenPinned(path, BPF_MAP_TYPE_HASH, Access::kReadWrite).ok()));
  const auto wrong_key = Map<uint64_t, uint64_t>::OpenPinned(path, BPF_MAP_TYPE_HASH, Access::kReadWrite);
  EXPECT_TRUE(absl::IsFailedPrecondition(wrong_key.status()));
  const auto wrong_value = Map<uint32_t, uint32_t>::OpenPinned(path, BPF_MAP_TYPE_HASH, Access::kReadWrite);
  EXPECT_TRUE(absl::IsFailedPrecondition(wrong_value.status()));
  const auto wrong_type = Map<uint32_t, uint64_t>::OpenPinned(path, BPF_MAP_TYPE_ARRAY, Access::kReadWrite);
  EXPECT_THAT(std::string(wrong_type.status().message()), ::testing::HasSubstr("another version"));
  EXPECT_TRUE(absl::IsNotFound(
      (Map<uint32_t, uint64_t>::OpenPinned(dir_ + "/none", BPF_MAP_TYPE_HASH, Access::kReadWrite).status())));
}

TEST_F(MapTest, ReadOnlyHandleCannotWrite) {
  auto map = Map<uint32_t, uint64_t>::Create("t", BPF_MAP_TYPE_HASH, 8);
  ASSERT_EQ(bpf_obj_pin(map->fd(), (dir_ + "/t").c_str()), 0);
  auto reader = Map<uint32_t, uint64_t>::OpenPinned(dir_ + "/t", BPF_MAP_TYPE_HASH, Access::kReadOnly);
  ASSERT_TRUE(reader.ok());
  EXPECT_TRUE(absl::IsPermissionDenied(reader->Update(1, 1)));
}

TEST_F(MapTest, SharedArrayIsTheMapsMemory) {
  auto map = Map<uint32_t, uint64_t>::Create("t", BPF_MAP_TYPE_ARRAY, 4, BPF_F_MMAPABLE);
  ASSERT_TRUE(map.ok());
  ASSERT_EQ(bpf_obj_pin(map->fd(), (dir_ + "/t").c_str()), 0);
  auto shared = SharedArray<uint64_t>::OpenPinned(dir_ + "/t", 4, Access::kReadWrite);
  ASSERT_TRUE(shared.ok()) << shared.status();
  (*shared)[3] = 42;
  EXPECT_EQ(*map->Lookup(3), 42U);
}

TEST_F(MapTest, BatchFillsATrieOfManyCalls) {
  struct Key {
    uint32_t length;
    uint32_t address;
  };
  constexpr size_t kCount = 40'000;
  auto map = Map<Key, uint32_t>::Create("t", BPF_MAP_TYPE_LPM_TRIE, kCount, BPF_F_NO_PREALLOC);
  ASSERT_TRUE(map.ok()) << map.status();
  std::vector<Key> keys(kCount);
  std::vector<uint32_t> values(kCount);
  for (uint32_t i = 0; i < kCount; ++i) keys[i] = {32, i}, values[i] = i;
  ASSERT_TRUE(
      UpdateBatch(map->fd(), keys.data(), sizeof(Key), values.data(), sizeof(uint32_t), kCount, "t").ok());
  EXPECT_EQ(*map->Lookup({32, 0}), 0U);
  EXPECT_EQ(*map->Lookup({32, kCount - 1}), kCount - 1);
  keys[kCount / 2].length = 33;
  EXPECT_FALSE(
      UpdateBatch(map->fd(), keys.data(), sizeof(Key), values.data(), sizeof(uint32_t), kCount, "t").ok());
}

}  // namespace
}  // namespace tpx::bpf
