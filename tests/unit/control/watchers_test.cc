// SPDX-License-Identifier: Apache-2.0
#include "tpx/control/watchers.h"

#include <gmock/gmock.h>
#include <net/if.h>

#include "control_lab.h"
#include "tpx/bpf/features.h"
#include "tpx/bpf/link.h"

namespace tpx::control {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class WatchersTest : public ControlLab {
 protected:
  void LoadIn(policy::AttachMode mode) {
    ASSERT_TRUE(Load(paths_, TestConfig(mode), "").ok());
    absl::StatusOr<Watchers> watchers = Watchers::Open(paths_);
    ASSERT_TRUE(watchers.ok()) << watchers.status();
    watchers_.emplace(std::move(*watchers));
    // Any program does for somebody else's.
    program_ = *bpf::OpenPinnedProgram(paths_.pins + "/tpx_lan");
  }
  std::vector<std::string> Found() { return WatcherNames(watchers_->Find().value_or(~0U)); }
  static int Index(const char* device) { return static_cast<int>(if_nametoindex(device)); }

  std::optional<Watchers> watchers_;
  UniqueFd program_;
};

constexpr policy::AttachMode kModes[] = {policy::AttachMode::kAuto, policy::AttachMode::kClsact};

TEST_F(WatchersTest, NeedSomethingLoaded) { EXPECT_FALSE(Watchers::Open(paths_).ok()); }

TEST_F(WatchersTest, FiltersOfOthersOnOurDevices) {
  for (const policy::AttachMode mode : kModes) {
    LoadIn(mode);
    EXPECT_THAT(Found(), IsEmpty());
    for (const char* device : {"lan0", "lan1", "wan0"}) {
      (void)bpf::CreateClsact(Index(device)).ok();  // where ours is a filter it is there
      EXPECT_THAT(Found(), IsEmpty()) << device;
      const bpf::Filter filter{.ifindex = Index(device), .priority = 900, .handle = 1};
      ASSERT_TRUE(bpf::AttachFilter(filter, program_.get()).ok());
      EXPECT_THAT(Found(), ElementsAre("another program or filter in tc")) << device;
      ASSERT_TRUE(bpf::DetachFilter(filter).ok());
    }
    EXPECT_THAT(Found(), IsEmpty());
    ASSERT_TRUE(Detach(paths_).ok());
    for (const char* device : {"lan0", "lan1", "wan0"}) (void)bpf::DestroyClsact(Index(device)).ok();
  }
}

TEST_F(WatchersTest, ProgramsOfOthersOnOurDevices) {
  if (!bpf::ProbeFeatures()->tcx) GTEST_SKIP() << "this kernel has no tcx (Linux 6.6)";
  for (const policy::AttachMode mode : kModes) {
    LoadIn(mode);
    {
      const absl::StatusOr<UniqueFd> link = bpf::AttachTcx(program_.get(), Index("wan0"));
      ASSERT_TRUE(link.ok()) << link.status();
      EXPECT_THAT(Found(), ElementsAre("another program or filter in tc"));
    }
    EXPECT_THAT(Found(), IsEmpty());
    const absl::StatusOr<UniqueFd> link = bpf::AttachTcx(program_.get(), Index("wan0p"));
    ASSERT_TRUE(link.ok()) << link.status();
    EXPECT_THAT(Found(), IsEmpty()) << "a device that is not ours";
    ASSERT_TRUE(Detach(paths_).ok());
  }
}

TEST_F(WatchersTest, PoliciesOfIpsec) {
  LoadIn(policy::AttachMode::kAuto);
  const std::string policy = "ip xfrm policy add src 192.0.2.0/24 dst 203.0.113.0/24 dir ";
  for (const std::string direction : {"in", "out", "fwd"}) {
    Sh(policy + direction + " tmpl src 192.0.2.1 dst 203.0.113.1 proto esp mode tunnel");
    EXPECT_THAT(Found(), ElementsAre("policies of IPsec")) << direction;
    Sh("ip xfrm policy flush");
    EXPECT_THAT(Found(), IsEmpty());
  }
  for (const std::string direction : {"in", "out", "fwd"}) {
    Sh("ip xfrm policy setdefault " + direction + " block");
    EXPECT_THAT(Found(), ElementsAre("policies of IPsec")) << direction;
    Sh("ip xfrm policy setdefault " + direction + " accept");
    EXPECT_THAT(Found(), IsEmpty());
  }
}

TEST_F(WatchersTest, RulesByWhichASocketMaySendAnotherWay) {
  LoadIn(policy::AttachMode::kAuto);
  EXPECT_THAT(Found(), IsEmpty()) << "the kernel's rules and ours";
  for (const std::string family : {"-4 ", "-6 "}) {
    for (const std::string selector :
         {"fwmark 1", "fwmark 0/1", "iif lan0", "oif wan0", "uidrange 0-0", "l3mdev"}) {
      const std::string rule = selector + (selector == "l3mdev" ? "" : " lookup 100");
      Sh("ip " + family + "rule add " + rule);
      EXPECT_THAT(Found(), ElementsAre("routing rules by mark, device, user or tunnel")) << rule;
      Sh("ip " + family + "rule del " + rule);
      EXPECT_THAT(Found(), IsEmpty());
    }
    Sh("ip " + family + "rule add dport 53 ipproto 17 lookup 100");
    EXPECT_THAT(Found(), IsEmpty()) << "asks what both ways have in common";
  }
}

}  // namespace
}  // namespace tpx::control
