// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "tpx/app/trace.h"
#include "tpx/bpf/shared_array.h"
#include "tpx/control/lifecycle.h"

namespace tpx::app {

// What the numbers of events mean, as it is loaded: follows reloads.
class EventNames {
 public:
  static absl::StatusOr<EventNames> Open(const control::Paths& paths);

  // True when another generation was published since the last call; its names are known then.
  absl::StatusOr<bool> Follow();
  EventView ViewOf(const tpx_event& event) const;
  // Of the rule of that name in the generation that is live.
  std::optional<uint32_t> CounterOf(const std::string& rule) const;
  std::vector<std::string> rules() const;

 private:
  EventNames(control::Paths paths, bpf::SharedArray<tpx_control> control)
      : paths_(std::move(paths)), control_(std::move(control)) {}
  absl::Status Read(uint32_t live);

  control::Paths paths_;
  bpf::SharedArray<tpx_control> control_;
  uint32_t generation_ = 0;
  std::map<std::string, uint32_t> live_;
  // Those of earlier generations too: their events may come late.
  std::map<uint32_t, std::string> names_;
};

}  // namespace tpx::app
