// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <vector>

#include "tpx/control/explain.h"

namespace tpx::control {

// The first packet of the flow, as an Ethernet frame with good checksums.
std::vector<std::byte> BuildTrialFrame(const TrialFlow& flow);

// The flow as the programs see it.
tpx_flow KeyOf(const TrialFlow& flow);

}  // namespace tpx::control
