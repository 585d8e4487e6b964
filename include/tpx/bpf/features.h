// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace tpx::bpf {

// What the running kernel and the rights of the caller allow, found by trying.
struct Features {
  bool sk_lookup = false;
  bool mmapable_arrays = false;
  bool kernel_btf = false;
  bool tcx = false;  // without it: clsact

  // What nothing can be loaded without, as text.
  std::vector<std::string> Missing() const;
};

// kPermissionDenied when BPF may not be used at all.
absl::StatusOr<Features> ProbeFeatures();

}  // namespace tpx::bpf
