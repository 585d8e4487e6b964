// SPDX-License-Identifier: Apache-2.0
#include "tpx/data/gathering.h"

namespace tpx::data {

void Gathering::OnTurn(uint32_t received, uint32_t sent, uint64_t now_ms) {
  if (on_) {
    on_ = received >= 2 && received >= 2 * sent;
    if (!on_) next_trial_ms_ = now_ms + kTrialEveryMs;
  } else {
    on_ = received > 0 && now_ms >= next_trial_ms_;
  }
}

}  // namespace tpx::data
