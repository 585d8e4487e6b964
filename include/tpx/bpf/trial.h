// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "tpx_local_trial.h"
#include "tpx_watchers.h"

namespace tpx::bpf {

// A frame with its Ethernet header, and what the stack says of it.
struct TrialPacket {
  std::span<const std::byte> frame;
  int ifindex = 0;  // of a device in the network namespace of the calling thread
  uint32_t mark = 0;
};

// Runs a device's program once, on a packet that nobody sent and nobody gets.
// What the program writes into its maps stays there.
absl::Status RunTrial(int program_fd, const TrialPacket& packet);

// Runs the program for local flows once.
absl::Status RunLocalTrial(int program_fd, const tpx_local_trial& trial);

// Runs the judge once, on what is in its map of questions.
absl::Status RunJudge(int program_fd);

// Runs the program that looks for watchers once, in the network namespace of the calling thread.
absl::Status RunWatchers(int program_fd, tpx_watchers& watchers);

}  // namespace tpx::bpf
