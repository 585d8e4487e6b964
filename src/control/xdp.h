// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "attach.h"
#include "state.h"
#include "tpx/policy/config.h"

// Early drop by XDP. It saves work and decides nothing that tc would not decide
// alike: what cannot be attached is told, and never an error.
namespace tpx::control {

// Why XDP would have nothing to do under this configuration; empty where it has.
std::string WhyXdpIsIdle(const policy::Config& config);

// Where to try on a device, the best first, and why there; of an empty ladder, why it is empty.
struct XdpLadder {
  std::vector<XdpPlace> rungs{};
  std::string why{};
};
XdpLadder LadderOf(policy::XdpMode asked, const sys::LinkInfo& link, const std::vector<sys::LinkInfo>& links);

enum class XdpAttempts { kAll, kNew };  // kNew: not again where attaching has failed

// Attaches to the LAN devices of the state and detaches from others, as
// state.xdp and state.xdp_idle say; state.early then tells what is. A line for
// what changed. The caller writes the state. The errors are those of steps.
absl::Status SyncXdp(Site& site, State& state, XdpAttempts attempts, std::vector<std::string>& lines);

// Puts another program in the place of the attached ones, each in one step; those in libxdp's dispatchers
// stay.
absl::Status ReplaceXdp(Site& site, const State& state, int program_fd);
// Does the same for those in dispatchers, where tc drops alone for a moment.
absl::Status RejoinDispatchers(Site& site, State& state, std::vector<std::string>& lines);

// The id of our program that runs on the device, 0 for none.
uint32_t XdpProgram(const std::string& pins, const EarlyDrop& early);

}  // namespace tpx::control
