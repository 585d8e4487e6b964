// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tpx/control/lifecycle.h"
#include "tpx/policy/config.h"

namespace tpx::control {

// A network and mount namespace of its own with the veth pairs lan0/lan0p,
// lan1/lan1p and wan0/wan0p, and an instance in a temporary directory. All of
// it goes with the test.
class ControlLab : public ::testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;

  // Runs a shell command in the namespace; its success is expected.
  static void Sh(const std::string& command);
  static std::string Output(const std::string& command);

  // All that a load could change, as text.
  std::string Dump() const;

  // lan0 and lan1 are LAN, wan0 is WAN; all TCP is proxied.
  static policy::Config TestConfig(policy::AttachMode mode = policy::AttachMode::kAuto);

  Paths paths_;
  std::string dir_;  // temporary
};

// Counts the steps it is asked about; fails or ends the process at the given one.
enum class Fault { kError, kExit };
Checkpoint FailAt(int step, Fault fault, int* seen);

bool AnyLineHas(const std::vector<std::string>& lines, const std::string& text);

}  // namespace tpx::control
