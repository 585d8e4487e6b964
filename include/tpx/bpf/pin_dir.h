// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tpx::bpf {

// A directory of pins. Maps and programs are pinned under their own names,
// links as "link_<role>_<ifindex>", "link_xdp_<ifindex>" and "link_sk_lookup". The kernel allows no
// dots in these names.
//
// A pin can be used by whoever can open it, so the directory is 0700 and its
// files are 0600. Programs are set up in a staging directory beside it and
// published by one rename.
std::string StageDir(const std::string& dir);

// The BPF file system that `dir` is to be made in.
std::string PinRoot(const std::string& dir);

// Refuses a root in which others could replace our directory; adds a line to
// `notes` when others may enter it.
absl::Status CheckPinRoot(const std::string& root, std::vector<std::string>& notes);

// Checks owner and mode of an existing directory and of its pins. Wider modes
// are narrowed, which `notes` tells; a foreign owner is kPermissionDenied.
absl::Status SecurePinDir(const std::string& dir, std::vector<std::string>& notes);

bool Exists(const std::string& path);
absl::Status CreatePinDir(const std::string& dir);                             // 0700
absl::Status PublishPinDir(const std::string& stage, const std::string& dir);  // never replaces
// Moves one pin over another of that name or to a free name.
absl::Status MovePin(const std::string& from, const std::string& to);
absl::StatusOr<std::vector<std::string>> ListPins(const std::string& dir);  // names; empty if none
absl::StatusOr<bool> RemovePinDir(const std::string& dir);                  // with its pins

}  // namespace tpx::bpf
