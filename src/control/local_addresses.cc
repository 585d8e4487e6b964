// SPDX-License-Identifier: Apache-2.0
#include "local_addresses.h"

#include <arpa/inet.h>

#include <array>
#include <atomic>

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

using LocalFilter = std::array<uint64_t, TPX_LOCAL_FILTER_BITS / 64>;

void Add(const tpx_addr& address, LocalFilter& filter) {
  const uint32_t bit = tpx_local_bit(&address);
  filter[bit / 64] |= uint64_t{1} << bit % 64;
}

LocalFilter FilterOf(const std::map<IpAddr, uint32_t>& local) {
  LocalFilter filter{};
  for (const auto& [address, kind] : local) Add(address.raw, filter);
  return filter;
}

void Store(const LocalFilter& filter, tpx_control& control) {
  for (size_t i = 0; i < filter.size(); ++i) {
    std::atomic_ref(control.local_filter[i]).store(filter[i], std::memory_order_release);
  }
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
  TPX_ASSIGN_OR_RETURN(auto control, bpf::OpenControl(pins, bpf::Access::kReadWrite));
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
  // The programs ask the filter first: it knows of an address before the map does, and forgets it later.
  LocalFilter filter = FilterOf(wanted);
  for (const tpx_addr& key : present) Add(key, filter);
  Store(filter, control[0]);
  for (const auto& [address, kind] : wanted) TPX_RETURN_IF_ERROR(map.Update(address.raw, kind));
  if (room) TPX_RETURN_IF_ERROR(remove_stale());
  Store(FilterOf(wanted), control[0]);
  return absl::OkStatus();
}

}  // namespace tpx::control
