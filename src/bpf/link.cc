// SPDX-License-Identifier: Apache-2.0
#include "tpx/bpf/link.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <linux/if_link.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <iterator>

#include "libbpf_log.h"
#include "tpx/base/status.h"
#include "tpx/base/strings.h"
#include "uapi.h"

namespace tpx::bpf {
namespace {

constexpr std::string_view kSkLookupName = "tpx_sk_lookup";
constexpr std::string_view kLanName = "tpx_lan";
constexpr std::string_view kWanName = "tpx_wan";

struct CgroupHook {
  std::string_view program;
  bpf_attach_type hook;
};
constexpr CgroupHook kCgroupHooks[] = {
    {"tpx_sock_create", BPF_CGROUP_INET_SOCK_CREATE}, {"tpx_sock_ops", BPF_CGROUP_SOCK_OPS},
    {"tpx_getsockopt", BPF_CGROUP_GETSOCKOPT},        {"tpx_peername4", BPF_CGROUP_INET4_GETPEERNAME},
    {"tpx_peername6", BPF_CGROUP_INET6_GETPEERNAME},  {"tpx_recvmsg4", BPF_CGROUP_UDP4_RECVMSG},
    {"tpx_recvmsg6", BPF_CGROUP_UDP6_RECVMSG},        {"tpx_sendmsg4", BPF_CGROUP_UDP4_SENDMSG},
    {"tpx_sendmsg6", BPF_CGROUP_UDP6_SENDMSG},        {"tpx_connect4", BPF_CGROUP_INET4_CONNECT},
    {"tpx_connect6", BPF_CGROUP_INET6_CONNECT},
};

// libbpf returns negative errors here; the kernel's text, where libbpf has got
// one, is in its log.
absl::Status NetlinkStatus(int result, const std::string& what, const LibbpfLog& log) {
  if (result == 0) return absl::OkStatus();
  const absl::Status status = ErrnoStatus(-result, what);
  std::string text = log.text().substr(0, log.text().find('\n'));
  return text.empty() ? status : absl::Status(status.code(), StrCat(status.message(), " (", text, ")"));
}

bpf_tc_hook IngressHook(int ifindex) {
  bpf_tc_hook hook{};
  hook.sz = sizeof(hook);
  hook.ifindex = ifindex;
  hook.attach_point = BPF_TC_INGRESS;
  return hook;
}

// Which filter is meant; what to do with it is the caller's to fill in.
bpf_tc_opts OptionsFor(const Filter& filter) {
  LIBBPF_OPTS(bpf_tc_opts, options);
  options.handle = filter.handle;
  options.priority = filter.priority;
  return options;
}

absl::StatusOr<bpf_link_info> LinkInfo(int fd) {
  bpf_link_info info{};
  uint32_t size = sizeof(info);
  if (bpf_obj_get_info_by_fd(fd, &info, &size) != 0) return ErrnoStatus(errno, "inspect link");
  return info;
}

}  // namespace

absl::StatusOr<UniqueFd> AttachTcx(int program_fd, int ifindex) {
  LIBBPF_OPTS(bpf_link_create_opts, options);
  options.flags = kBefore;
  UniqueFd fd(bpf_link_create(program_fd, ifindex, kTcxIngress, &options));
  if (!fd) return ErrnoStatus(errno, "create tcx link");
  return fd;
}

absl::StatusOr<UniqueFd> AttachXdp(int program_fd, int ifindex, XdpHook hook) {
  LibbpfLog log;
  LIBBPF_OPTS(bpf_link_create_opts, options);
  options.flags = hook == XdpHook::kNative ? XDP_FLAGS_DRV_MODE : XDP_FLAGS_SKB_MODE;
  UniqueFd fd(bpf_link_create(program_fd, ifindex, BPF_XDP, &options));
  if (!fd) return ErrnoStatus(errno, "create XDP link");
  return fd;
}

absl::StatusOr<UniqueFd> AttachSkLookup(int program_fd) {
  UniqueFd netns(open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
  if (!netns) return ErrnoStatus(errno, "open /proc/thread-self/ns/net");
  UniqueFd fd(bpf_link_create(program_fd, netns.get(), BPF_SK_LOOKUP, nullptr));
  if (!fd) return ErrnoStatus(errno, "create sk_lookup link");
  return fd;
}

absl::StatusOr<UniqueFd> AttachCgroup(int program_fd, const std::string& folder, std::string_view program) {
  const auto* hook = std::ranges::find(kCgroupHooks, program, &CgroupHook::program);
  if (hook == std::end(kCgroupHooks)) return absl::InternalError(StrCat("no hook for ", program));
  UniqueFd cgroup(open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!cgroup) return ErrnoStatus(errno, StrCat("open ", folder));
  UniqueFd fd(bpf_link_create(program_fd, cgroup.get(), hook->hook, nullptr));
  if (!fd) return ErrnoStatus(errno, StrCat("create the link of ", program));
  return fd;
}

std::span<const std::string_view> LocalPrograms() {
  static constexpr auto kNames = [] {
    std::array<std::string_view, std::size(kCgroupHooks)> names;
    std::ranges::transform(kCgroupHooks, names.begin(), &CgroupHook::program);
    return names;
  }();
  return kNames;
}

absl::Status PinLink(int link_fd, const std::string& path) {
  if (bpf_obj_pin(link_fd, path.c_str()) != 0) return ErrnoStatus(errno, StrCat("pin link at ", path));
  return absl::OkStatus();
}

absl::Status ReplaceLinkProgram(const std::string& pin, int program_fd) {
  UniqueFd link(bpf_obj_get(pin.c_str()));
  if (!link) return ErrnoStatus(errno, StrCat("open pin ", pin));
  const int result = bpf_link_update(link.get(), program_fd, nullptr);
  return result == 0 ? absl::OkStatus() : ErrnoStatus(-result, StrCat("replace the program of ", pin));
}

absl::StatusOr<LinkState> InspectLink(const std::string& pin) {
  UniqueFd fd(bpf_obj_get(pin.c_str()));
  if (!fd) return ErrnoStatus(errno, StrCat("open pin ", pin));
  TPX_ASSIGN_OR_RETURN(bpf_link_info info, LinkInfo(fd.get()));
  LinkState state{.id = info.id, .program_id = info.prog_id};
  if (info.type == kLinkTypeTcx) state.target = TcxIfindex(info);
  if (info.type == BPF_LINK_TYPE_XDP) state.target = info.xdp.ifindex;
  if (info.type == BPF_LINK_TYPE_NETNS) state.target = info.netns.netns_ino;
  if (info.type == BPF_LINK_TYPE_CGROUP) state.target = info.cgroup.cgroup_id;
  return state;
}

absl::Status DestroyLink(const std::string& pin) {
  UniqueFd fd(bpf_obj_get(pin.c_str()));
  // What is no link has nothing to detach, only a pin.
  if (fd) bpf_link_detach(fd.get());
  if (unlink(pin.c_str()) != 0 && errno != ENOENT) return ErrnoStatus(errno, StrCat("unlink ", pin));
  return absl::OkStatus();
}

absl::Status CreateClsact(int ifindex) {
  LibbpfLog log;
  bpf_tc_hook hook = IngressHook(ifindex);
  return NetlinkStatus(bpf_tc_hook_create(&hook), "create clsact qdisc", log);
}

absl::Status DestroyClsact(int ifindex) {
  LibbpfLog log;
  bpf_tc_hook hook = IngressHook(ifindex);
  hook.attach_point = static_cast<bpf_tc_attach_point>(BPF_TC_INGRESS | BPF_TC_EGRESS);
  return NetlinkStatus(bpf_tc_hook_destroy(&hook), "delete clsact qdisc", log);
}

absl::Status AttachFilter(const Filter& filter, int program_fd) {
  LibbpfLog log;
  const bpf_tc_hook hook = IngressHook(filter.ifindex);
  bpf_tc_opts options = OptionsFor(filter);
  options.prog_fd = program_fd;
  const int result = bpf_tc_attach(&hook, &options);
  // EINVAL: a filter of another kind has the priority.
  return NetlinkStatus(result == -EINVAL ? -EEXIST : result, "attach filter", log);
}

absl::Status ReplaceFilterProgram(const Filter& filter, int program_fd) {
  LibbpfLog log;
  const bpf_tc_hook hook = IngressHook(filter.ifindex);
  bpf_tc_opts options = OptionsFor(filter);
  options.prog_fd = program_fd;
  options.flags = BPF_TC_F_REPLACE;
  return NetlinkStatus(bpf_tc_attach(&hook, &options), "replace the program of a filter", log);
}

absl::StatusOr<std::optional<uint32_t>> InspectFilter(const Filter& filter) {
  LibbpfLog log;
  const bpf_tc_hook hook = IngressHook(filter.ifindex);
  bpf_tc_opts options = OptionsFor(filter);
  const int result = bpf_tc_query(&hook, &options);
  if (result == 0) return options.prog_id;
  // No filter, no qdisc, or no device.
  if (result == -ENOENT || result == -EINVAL || result == -ENODEV) return std::nullopt;
  return NetlinkStatus(result, "query filter", log);
}

absl::Status DetachFilter(const Filter& filter) {
  LibbpfLog log;
  const bpf_tc_hook hook = IngressHook(filter.ifindex);
  bpf_tc_opts options = OptionsFor(filter);
  return NetlinkStatus(bpf_tc_detach(&hook, &options), "detach filter", log);
}

absl::StatusOr<bool> SkLookupAttached(uint64_t netns_inode) {
  uint32_t id = 0;
  while (bpf_link_get_next_id(id, &id) == 0) {
    UniqueFd fd(bpf_link_get_fd_by_id(id));
    if (!fd) continue;  // gone meanwhile
    TPX_ASSIGN_OR_RETURN(bpf_link_info info, LinkInfo(fd.get()));
    if (info.type != BPF_LINK_TYPE_NETNS || info.netns.netns_ino != netns_inode) continue;
    absl::StatusOr<std::string> name = ProgramName(info.prog_id);
    if (name.ok() && *name == kSkLookupName) return true;
  }
  if (errno != ENOENT) return ErrnoStatus(errno, "list links");
  return false;
}

absl::StatusOr<UniqueFd> OpenPinnedProgram(const std::string& path) {
  UniqueFd fd(bpf_obj_get(path.c_str()));
  if (!fd) return ErrnoStatus(errno, StrCat("open pin ", path));
  TPX_RETURN_IF_ERROR(ProgramId(fd.get()).status());
  return fd;
}

absl::StatusOr<uint32_t> ProgramId(int program_fd) {
  bpf_prog_info info{};
  uint32_t size = sizeof(info);
  if (bpf_obj_get_info_by_fd(program_fd, &info, &size) != 0) return ErrnoStatus(errno, "inspect program");
  return info.id;
}

absl::StatusOr<std::string> ProgramName(uint32_t id) {
  UniqueFd fd(bpf_prog_get_fd_by_id(id));
  if (!fd) return ErrnoStatus(errno, StrCat("open program ", id));
  bpf_prog_info info{};
  uint32_t size = sizeof(info);
  if (bpf_obj_get_info_by_fd(fd.get(), &info, &size) != 0) return ErrnoStatus(errno, "inspect program");
  return std::string(info.name);
}

bool IsDeviceProgram(std::string_view name) { return name == kLanName || name == kWanName; }

}  // namespace tpx::bpf
