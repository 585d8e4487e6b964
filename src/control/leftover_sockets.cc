// SPDX-License-Identifier: Apache-2.0
#include "leftover_sockets.h"

#include "local_addresses.h"
#include "tpx/base/status.h"
#include "tpx/sys/sock_diag.h"

namespace tpx::control {

absl::StatusOr<size_t> DestroyLeftoverSockets(const policy::Steering& steering, sys::Rtnl& rtnl) {
  TPX_ASSIGN_OR_RETURN(const std::vector<sys::AddressInfo> addresses, rtnl.ListAddresses());
  const std::map<IpAddr, uint32_t> own = LocalAddresses(addresses);
  TPX_ASSIGN_OR_RETURN(sys::SockDiag diag, sys::SockDiag::Open());
  TPX_ASSIGN_OR_RETURN(const std::vector<sys::OrphanSocket> leftovers,
                       diag.ListOrphans([&](const sys::OrphanSocket& orphan) {
                         return (orphan.mark == steering.steer_mark || orphan.mark == steering.own_mark) &&
                                !own.contains(orphan.local);
                       }));
  size_t destroyed = 0;
  for (const sys::OrphanSocket& leftover : leftovers) {
    const absl::Status status = diag.Destroy(leftover);
    if (!status.ok() && !absl::IsNotFound(status)) return status;
    destroyed += status.ok() ? 1 : 0;
  }
  return destroyed;
}

}  // namespace tpx::control
