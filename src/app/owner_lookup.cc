// SPDX-License-Identifier: Apache-2.0
#include "owner_lookup.h"

#include "tpx/base/status.h"
#include "tpx/sys/cgroup.h"
#include "tpx/sys/identity.h"

namespace tpx::app {

policy::OwnerLookup SystemOwners() {
  return {.user = sys::UserId,
          .group = sys::GroupId,
          .cgroup = sys::CgroupId,
          .program = [](const std::string& path) -> absl::StatusOr<policy::FileId> {
            TPX_ASSIGN_OR_RETURN(const sys::FileIdentity file, sys::IdentifyFile(path));
            return policy::FileId{.inode = file.inode, .device = file.device};
          }};
}

}  // namespace tpx::app
