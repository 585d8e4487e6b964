// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tpx/base/unique_fd.h"

namespace tpx::bpf {

// Attachments. A link lives as long as a descriptor or a pin of it; a clsact
// filter lives until it is deleted. All calls act in the network namespace of
// the calling thread. Programs of others are never replaced.

// First at the device's ingress. Needs Linux 6.6.
absl::StatusOr<UniqueFd> AttachTcx(int program_fd, int ifindex);
absl::StatusOr<UniqueFd> AttachSkLookup(int program_fd);

// In the cgroup whose folder is given, and all below it, after programs that are there.
absl::StatusOr<UniqueFd> AttachCgroup(int program_fd, const std::string& folder, std::string_view program);
// In the driver or in the stack. What the kernel answers where the device has a program in either already, or
// its driver knows no XDP, is not told apart.
enum class XdpHook { kNative, kGeneric };
absl::StatusOr<UniqueFd> AttachXdp(int program_fd, int ifindex, XdpHook hook);

absl::Status PinLink(int link_fd, const std::string& path);
// Puts another program in the place of the attached one in one step: a packet
// meets the old or the new program, never neither.
absl::Status ReplaceLinkProgram(const std::string& pin, int program_fd);

struct LinkState {
  uint32_t id = 0;
  uint32_t program_id = 0;
  // The device, the namespace or the cgroup it is attached to; 0 once that is gone.
  uint64_t target = 0;
};
absl::StatusOr<LinkState> InspectLink(const std::string& pin);
// Detaches even if somebody holds a descriptor, and unpins.
absl::Status DestroyLink(const std::string& pin);

// A filter at the ingress hook of a clsact qdisc, with the program run in
// direct-action mode.
struct Filter {
  int ifindex = 0;
  uint32_t priority = 0;
  uint32_t handle = 0;
};

// Adds a clsact qdisc; kAlreadyExists when there is one.
absl::Status CreateClsact(int ifindex);
absl::Status DestroyClsact(int ifindex);
// The place that a new filter of ours takes: as far in front as possible.
// A place is free when nothing of another kind has its priority.
inline constexpr uint32_t kFilterHandle = 0x747078;
inline constexpr uint32_t kFilterPriorities = 16;
absl::Status AttachFilter(const Filter& filter, int program_fd);  // kAlreadyExists: taken
// The id of the program at the filter's place, if there is one.
absl::StatusOr<std::optional<uint32_t>> InspectFilter(const Filter& filter);
absl::Status ReplaceFilterProgram(const Filter& filter, int program_fd);  // in one step, as for a link
absl::Status DetachFilter(const Filter& filter);

// The programs for the flows that begin on the gateway itself, by name.
std::span<const std::string_view> LocalPrograms();

// Whether any of our sk_lookup programs is attached to the namespace, be it by
// pins that we do not know of.
absl::StatusOr<bool> SkLookupAttached(uint64_t netns_inode);

absl::StatusOr<UniqueFd> OpenPinnedProgram(const std::string& path);
absl::StatusOr<uint32_t> ProgramId(int program_fd);
absl::StatusOr<std::string> ProgramName(uint32_t id);
bool IsDeviceProgram(std::string_view name);  // whether it is one of ours for devices

}  // namespace tpx::bpf
