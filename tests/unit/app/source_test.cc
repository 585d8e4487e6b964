// SPDX-License-Identifier: Apache-2.0
#include "tpx/app/source.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>

namespace tpx::app {
namespace {

using ::testing::HasSubstr;

const control::Paths kNowhere{.pins = "/nonexistent/pins", .state = "/nonexistent/state"};

class SourceTest : public ::testing::Test {
 protected:
  SourceTest() { EXPECT_NE(mkdtemp(folder_), nullptr); }
  ~SourceTest() override {
    unlink(Path("config.yaml").c_str());
    unlink(Path("set.txt").c_str());
    rmdir(folder_);
  }
  std::string Path(const std::string& name) const { return std::string(folder_) + "/" + name; }
  void Write(const std::string& name, const std::string& text, mode_t mode = 0644) {
    std::ofstream(Path(name)) << text;
    chmod(Path(name).c_str(), mode);
  }

 private:
  char folder_[32] = "/tmp/tpx-source-XXXXXX";
};

TEST_F(SourceTest, DevicesMeanAllTcpAndUdpProxiedFailingOpen) {
  auto source = FindSource({.config = "", .lan = {"eth1", "veth*"}, .wan = {"eth0"}}, kNowhere, true);
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ(source->config.interfaces.lan, (std::vector<std::string>{"eth1", "veth*"}));
  EXPECT_EQ(source->config.interfaces.wan, (std::vector<std::string>{"eth0"}));
  const policy::Rule& rule = source->config.policy.rules.front();
  EXPECT_EQ(rule.action, TPX_ACTION_PROXY);
  EXPECT_EQ(rule.protocols, (std::vector<uint8_t>{6, 17}));
  EXPECT_EQ(rule.fail_mode, TPX_FAIL_OPEN);
  EXPECT_EQ(source->config.policy.rules.back().action, TPX_ACTION_BYPASS);
}

TEST_F(SourceTest, ADeviceNameCannotSmuggleConfiguration) {
  auto source = FindSource({.config = "", .lan = {"a']\ndefault: drop #"}, .wan = {}}, kNowhere, false);
  EXPECT_FALSE(source.ok());
}

TEST_F(SourceTest, SetFilesAreRelativeToTheConfiguration) {
  Write("set.txt", "192.0.2.0/24\n");
  Write("config.yaml",
        "version: 1\ninterfaces: {lan: a}\nsets: {s: {file: set.txt}}\n"
        "rules:\n  - {name: r, match: {dst: s}, action: drop}\n");
  auto source = FindSource({.config = Path("config.yaml"), .lan = {}, .wan = {}}, kNowhere, false);
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ(source->config.policy.rules.front().dst.size(), 1u);
}

TEST_F(SourceTest, OwnersAreThoseOfThisMachine) {
  Write("config.yaml",
        "version: 1\ninterfaces: {lan: a}\nlocal: true\n"
        "rules:\n  - {name: r, match: {uid: daemon, gid: daemon, exe: /proc/self/exe,\n"
        "     cgroup: /tpx-there-is-none}, action: drop}\n");
  auto source = FindSource({.config = Path("config.yaml"), .lan = {}, .wan = {}}, kNowhere, false);
  ASSERT_TRUE(source.ok()) << source.status();
  const policy::Rule& rule = source->config.policy.rules.front();
  EXPECT_EQ(rule.uids, (std::vector<policy::IdRange>{{1, 1}}));
  EXPECT_EQ(rule.gids, (std::vector<policy::IdRange>{{1, 1}}));
  struct stat self {};
  ASSERT_EQ(stat("/proc/self/exe", &self), 0);
  EXPECT_EQ(rule.programs.front().file.inode, self.st_ino);
  EXPECT_EQ(rule.cgroups.front().id, 0u);
  EXPECT_THAT(
      source->warnings,
      ::testing::ElementsAre(HasSubstr("config.yaml:6:14: cgroup: '/tpx-there-is-none' does not exist")));
}

TEST_F(SourceTest, AUserThatDoesNotExistIsAnErrorWithItsPlace) {
  Write("config.yaml",
        "version: 1\ninterfaces: {lan: a}\nlocal: true\n"
        "rules:\n  - {name: r, match: {uid: tpx-none}, action: drop}\n");
  auto source = FindSource({.config = Path("config.yaml"), .lan = {}, .wan = {}}, kNowhere, false);
  EXPECT_THAT(source.status().message(), HasSubstr("config.yaml:5:28: uid: there is no user 'tpx-none'"));
}

TEST_F(SourceTest, AFileThatEverybodyMayWriteIsRefused) {
  Write("config.yaml", "version: 1\ninterfaces: {lan: a}\n", 0666);
  auto source = FindSource({.config = Path("config.yaml"), .lan = {}, .wan = {}}, kNowhere, false);
  EXPECT_THAT(source.status().message(), HasSubstr("chmod o-w"));
}

TEST_F(SourceTest, WhatIsNoRegularFileIsRefusedAtOnce) {
  ASSERT_EQ(mkfifo(Path("config.yaml").c_str(), 0600), 0);
  auto source = FindSource({.config = Path("config.yaml"), .lan = {}, .wan = {}}, kNowhere, false);
  EXPECT_THAT(source.status().message(), HasSubstr("not a regular file"));
}

TEST_F(SourceTest, ErrorsComeInTheOrderOfTheFile) {
  Write("config.yaml",
        "version: 1\ninterfaces: {lan: a}\n"
        "rules:\n  - {name: r, match: {proto: tpc}, action: drop}\nnosuch: 1\n");
  auto source = FindSource({.config = Path("config.yaml"), .lan = {}, .wan = {}}, kNowhere, false);
  EXPECT_THAT(std::string(source.status().message()),
              ::testing::ContainsRegex("config.yaml:4:.*\n.*config.yaml:5:"));
}

TEST_F(SourceTest, WithoutAnythingTheErrorSaysWhatToGive) {
  if (access(kDefaultConfigPath, F_OK) == 0) GTEST_SKIP() << kDefaultConfigPath << " exists here";
  auto source = FindSource({}, kNowhere, true);
  EXPECT_THAT(source.status().message(), HasSubstr("--lan DEV"));
}

}  // namespace
}  // namespace tpx::app
