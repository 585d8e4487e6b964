// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <vector>

#include "policy/ranges.h"
#include "tpx_abi.h"

namespace tpx::policy {

// Lays the ranges of one dimension out for the kernel: as blocks inside the
// tables where they suffice, else as pages; see struct tpx_tables and tpx_page.
// False where IPv4 needs more than TPX_MAX_V4_WORDS.
bool LayOut(const AddressRanges& ranges, size_t dimension, tpx_tables& tables, std::vector<tpx_page>& pages);

}  // namespace tpx::policy
