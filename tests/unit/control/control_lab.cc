// SPDX-License-Identifier: Apache-2.0
#include "control_lab.h"

#include <bpf/bpf.h>
#include <net/if.h>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "tpx/base/strings.h"

namespace tpx::control {
namespace {

constexpr const char* kDevices[] = {"lan0", "lan1", "wan0"};

std::string TcxPrograms(const char* device) {
  uint32_t flags = 0;
  uint32_t count = 0;
  const int index = static_cast<int>(if_nametoindex(device));
  if (bpf_prog_query(index, static_cast<bpf_attach_type>(46), 0, &flags, nullptr, &count) != 0) count = 0;
  return StrCat(device, " tcx programs: ", count, "\n");
}

}  // namespace

void ControlLab::SetUp() {
  if (geteuid() != 0 || unshare(CLONE_NEWNET | CLONE_NEWNS) != 0) {
    const char* require = getenv("TPX_REQUIRE_PRIV");
    if (require != nullptr && std::string(require) == "1") FAIL() << "cannot make a network namespace";
    GTEST_SKIP() << "needs root: cannot make a network namespace";
  }
  ASSERT_EQ(mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr), 0);
  char pattern[] = "/tmp/tpx-control-XXXXXX";
  ASSERT_NE(mkdtemp(pattern), nullptr);
  dir_ = pattern;
  Sh(StrCat("mkdir ", dir_, "/bpf"));
  paths_ = {.pins = StrCat(dir_, "/bpf/tpx"), .state = StrCat(dir_, "/state")};
  Sh("ip link set lo up");
  for (const char* device : kDevices) {
    Sh(StrCat("ip link add ", device, " type veth peer name ", device, "p"));
    for (const char* suffix : {"", "p"}) {
      Sh(StrCat("ip link set ", device, suffix, " addrgenmode none up"));
    }
  }
  Sh("ip addr add 192.0.2.1/24 brd + dev lan0");
  Sh("ip addr add 2001:db8::1/64 dev lan0 nodad");
  // Carriers, and the routes that come with them, appear a moment later.
  Sh("for i in $(seq 200); do ip -6 route show table local | grep -q '^local 2001:db8::1 ' && "
     "! ip link | grep -q -e NO-CARRIER -e LOWERLAYERDOWN && break; sleep 0.05; done");
}

void ControlLab::TearDown() {
  if (dir_.empty()) return;
  umount2((dir_ + "/bpf").c_str(), MNT_DETACH);
  Sh(StrCat("rm -rf ", dir_));
}

void ControlLab::Sh(const std::string& command) { EXPECT_EQ(system(command.c_str()), 0) << command; }

std::string ControlLab::Output(const std::string& command) {
  std::string output;
  FILE* pipe = popen(StrCat(command, " 2>&1").c_str(), "re");
  if (pipe == nullptr) return "popen failed";
  char buffer[4096];
  while (size_t n = fread(buffer, 1, sizeof(buffer), pipe)) output.append(buffer, n);
  pclose(pipe);
  return output;
}

std::string ControlLab::Dump() const {
  std::string dump = Output(
      "ip -4 rule; ip -6 rule; ip -4 route show table all; ip -6 route show table all; ip -o link; tc qdisc "
      "show;"
      "cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv[46]/conf/*/* 2>/dev/null | md5sum");
  for (const char* device : kDevices) {
    dump += TcxPrograms(device) + Output(StrCat("tc filter show dev ", device, " ingress"));
  }
  return dump +
         Output(StrCat("find ", dir_, " | sort; grep ", dir_, " /proc/self/mountinfo | cut -d' ' -f5-"));
}

policy::Config ControlLab::TestConfig(policy::AttachMode mode) {
  policy::Config config;
  config.interfaces = {.lan = {"lan0", "lan1"}, .wan = {"wan0"}};
  config.steering.attach = mode;
  config.policy.rules.push_back({.name = "web",
                                 .protocols = {6},
                                 .src = {},
                                 .dst = {*Prefix::Parse("198.51.100.0/24")},
                                 .sports = {},
                                 .dports = {{80, 80}},
                                 .action = TPX_ACTION_PROXY});
  config.policy.rules.push_back(
      {.name = "default", .protocols = {}, .src = {}, .dst = {}, .sports = {}, .dports = {}});
  return config;
}

Checkpoint FailAt(int step, Fault fault, int* seen) {
  return [=](std::string_view) -> absl::Status {
    if ((*seen)++ != step) return absl::OkStatus();
    if (fault == Fault::kExit) _exit(0);
    return absl::AbortedError("injected");
  };
}

bool AnyLineHas(const std::vector<std::string>& lines, const std::string& text) {
  for (const std::string& line : lines) {
    if (line.find(text) != std::string::npos) return true;
  }
  return false;
}

}  // namespace tpx::control
