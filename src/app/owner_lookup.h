// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tpx/policy/parse.h"

namespace tpx::app {

// Users, groups, cgroups and programs as they are on this machine now.
policy::OwnerLookup SystemOwners();

}  // namespace tpx::app
