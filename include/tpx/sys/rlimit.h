// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace tpx::sys {

// Raises the limit of open descriptors: the soft limit to the hard one, and the
// hard one to `wanted` where that is more and allowed. Returns the soft limit
// that is in force afterwards; a refusal is no error.
uint64_t RaiseDescriptorLimit(uint64_t wanted);

}  // namespace tpx::sys
