// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tpx/bpf/object.h"

namespace tpx::bpf {

// The dispatcher of libxdp: an XDP program that calls those of several owners in turn. libxdp makes another
// one for each change, puts it into the former one's place at once, and pins its parts in a folder of its
// own. Which part is ours its maps tell, those that are pinned in `dir`. All calls wait for libxdp's lock.

bool IsDispatcher(std::string_view program);  // by its name

// The id of our program in the dispatcher of the device, 0 for none.
absl::StatusOr<uint32_t> ProgramInDispatcher(int ifindex, const std::string& dir);

// Adds the early program of this build, on the maps of `dir`, behind the programs that are there, in the mode
// of the dispatcher. Never makes a dispatcher.
absl::Status JoinDispatcher(int ifindex, const std::string& dir, const Knobs& knobs);

// Takes our program out, and the dispatcher away where it was the last one; also takes back what an
// unfinished call of either kind has left pinned. False where there was nothing.
absl::StatusOr<bool> LeaveDispatcher(int ifindex, const std::string& dir);

}  // namespace tpx::bpf
