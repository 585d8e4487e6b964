// SPDX-License-Identifier: Apache-2.0
#include "loaded.h"

#include <utility>

#include "instance.h"
#include "tpx/base/status.h"
#include "tpx/bpf/pin_dir.h"
#include "tpx/sys/netns.h"
#include "tpx_abi.h"

namespace tpx::control {
namespace {

absl::Status CheckChangeable(const State& state) {
  TPX_ASSIGN_OR_RETURN(const uint64_t netns, sys::CurrentNetns());
  if (state.netns != netns)
    return absl::FailedPreconditionError("loaded in another network namespace; run it there");
  if (state.abi_version != TPX_ABI_VERSION)
    return absl::FailedPreconditionError("another version of the program loaded it; run 'tpx-bpf load'");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Loaded> OpenLoaded(const Paths& paths) {
  const absl::Status nothing = absl::FailedPreconditionError("nothing is loaded; run 'tpx-bpf load'");
  if (!bpf::Exists(paths.pins)) return nothing;  // taking the lock would make the state directory
  TPX_ASSIGN_OR_RETURN(sys::FileLock lock, LockInstance(paths));
  if (!bpf::Exists(paths.pins)) return nothing;
  std::vector<std::string> notes;
  TPX_RETURN_IF_ERROR(bpf::SecurePinDir(paths.pins, notes));
  TPX_ASSIGN_OR_RETURN(State state, ReadState(paths));
  TPX_RETURN_IF_ERROR(CheckChangeable(state));
  return Loaded{.lock = std::move(lock), .state = std::move(state), .notes = std::move(notes)};
}

absl::StatusOr<std::optional<State>> ReadLoaded(const Paths& paths) {
  if (!bpf::Exists(paths.pins)) return std::nullopt;
  TPX_ASSIGN_OR_RETURN(State state, ReadState(paths));
  TPX_RETURN_IF_ERROR(CheckChangeable(state));
  return state;
}

}  // namespace tpx::control
