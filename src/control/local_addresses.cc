// SPDX-License-Identifier: Apache-2.0
#include "local_addresses.h"

#include <arpa/inet.h>

#include "tpx/base/status.h"
#include "tpx/base/strings.h"
#include "tpx/bpf/maps.h"

namespace tpx::control {
namespace {

// The last address of the subnet is a broadcast even when nobody configured
// it; a /31 or /32 has none (RFC 3021).
bool HasSubnetBroadcast(const sys::AddressInfo& info) {
  return info.addr.is_v4() && info.prefix_length >= 96 && info.prefix_length < 127;
}

IpAddr SubnetBroadcast(const sys::AddressInfo& info) {
  IpAddr addr = info.addr;
  addr.raw.w[3] |= htonl(0xffffffffU >> (info.prefix_length - 96));
  return addr;
}

}  // namespace

std::map<IpAddr, uint32_t> LocalAddresses(const std::vector<sys::AddressInfo>& addresses) {
  std::map<IpAddr, uint32_t> local;
  for (const sys::AddressInfo& info : addresses) {
    if (info.broadcast.has_value()) local.emplace(*info.broadcast, TPX_LOCAL_BROADCAST);
    if (HasSubnetBroadcast(info)) local.emplace(SubnetBroadcast(info), TPX_LOCAL_BROADCAST);
  }
  for (const sys::AddressInfo& info : addresses) local[info.addr] = TPX_LOCAL_ADDRESS;
  return local;
}

absl::Status SyncLocalAddresses(const std::string& pins, sys::Rtnl& rtnl) {
  TPX_ASSIGN_OR_RETURN(auto map, bpf::OpenLocal(pins, bpf::Access::kReadWrite));
  TPX_ASSIGN_OR_RETURN(const std::vector<sys::AddressInfo> addresses, rtnl.ListAddresses());
  const std::map<IpAddr, uint32_t> wanted = LocalAddresses(addresses);
  if (wanted.size() > TPX_MAX_LOCAL_ADDRS) {
    return absl::ResourceExhaustedError(StrCat("the network namespace has ", wanted.size(),
                                               " addresses and broadcasts, more than the supported ",
                                               TPX_MAX_LOCAL_ADDRS));
  }
  TPX_ASSIGN_OR_RETURN(const std::vector<tpx_addr> present, map.Keys());
  size_t stale = 0;
  for (const tpx_addr& key : present) stale += wanted.contains(IpAddr{key}) ? 0 : 1;
  // Additions go first, so that an address which moves is never missing, unless
  // there is no room for both.
  const bool room = wanted.size() + stale <= TPX_MAX_LOCAL_ADDRS;
  auto remove_stale = [&]() -> absl::Status {
    for (const tpx_addr& key : present) {
      if (!wanted.contains(IpAddr{key})) TPX_RETURN_IF_ERROR(map.Delete(key));
    }
    return absl::OkStatus();
  };
  if (!room) TPX_RETURN_IF_ERROR(remove_stale());
  for (const auto& [address, kind] : wanted) TPX_RETURN_IF_ERROR(map.Update(address.raw, kind));
  return room ? remove_stale() : absl::OkStatus();
}

}  // namespace tpx::control
