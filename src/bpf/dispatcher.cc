// SPDX-License-Identifier: Apache-2.0
#include "tpx/bpf/dispatcher.h"

#include <bpf/bpf.h>
#include <fcntl.h>
#include <linux/if_link.h>
#include <net/if.h>
#include <sys/file.h>
#include <unistd.h>
#include <xdp/libxdp.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "libbpf_log.h"
#include "tpx/base/status.h"
#include "tpx/base/strings.h"
#include "tpx/base/unique_fd.h"
#include "tpx/bpf/link.h"
#include "tpx/bpf/pin_dir.h"
#include "tpx/sys/file.h"

namespace tpx::bpf {
namespace {

constexpr const char* kProgram = "tpx_xdp_part";
// Behind those that ask for nothing (50): they see what they saw before.
constexpr unsigned kRunPriority = 60;

struct Close {
  void operator()(xdp_program* program) const { xdp_program__close(program); }
};
using Program = std::unique_ptr<xdp_program, Close>;

absl::Status Failure(long error, std::string_view what, const LibbpfLog& log) {
  const absl::Status status = ErrnoStatus(static_cast<int>(-error), what);
  const std::string text = SummariseLog(log.text());
  return text.empty() ? status : absl::Status(status.code(), StrCat(status.message(), " (", text, ")"));
}

// An error may be in the pointer.
absl::StatusOr<Program> Wrap(xdp_program* made, const LibbpfLog& log) {
  const long error = libxdp_get_error(made);
  if (error != 0 || made == nullptr) return Failure(error, "hand the program to libxdp", log);
  return Program(made);
}

// The id of the map that each of our programs has; 0 where none is pinned.
absl::StatusOr<uint32_t> OurMap(const std::string& dir) {
  const std::string pin = dir + "/tpx_control";
  if (!Exists(pin)) return 0;
  const UniqueFd fd(bpf_obj_get(pin.c_str()));
  if (!fd) return ErrnoStatus(errno, StrCat("open pin ", pin));
  bpf_map_info info{};
  uint32_t size = sizeof(info);
  if (bpf_obj_get_info_by_fd(fd.get(), &info, &size) != 0) return ErrnoStatus(errno, "inspect map");
  return info.id;
}

bool IsOurs(int program_fd, uint32_t our_map) {
  bpf_prog_info info{};
  uint32_t size = sizeof(info);
  if (bpf_obj_get_info_by_fd(program_fd, &info, &size) != 0 || std::string_view(info.name) != kProgram)
    return false;
  std::vector<uint32_t> maps(info.nr_map_ids);
  info = {};
  info.nr_map_ids = static_cast<uint32_t>(maps.size());
  info.map_ids = reinterpret_cast<uintptr_t>(maps.data());
  if (bpf_obj_get_info_by_fd(program_fd, &info, &size) != 0) return false;
  return std::find(maps.begin(), maps.end(), our_map) != maps.end();
}

// In a folder of libxdp: a program, or the link of one.
struct Pin {
  std::string path;
  uint32_t program = 0;
  bool ours = false;
};

Pin PinAt(const std::string& path, uint32_t our_map) {
  UniqueFd fd(bpf_obj_get(path.c_str()));
  if (fd && path.ends_with("-link")) {
    bpf_link_info info{};
    uint32_t size = sizeof(info);
    if (bpf_obj_get_info_by_fd(fd.get(), &info, &size) != 0) return {.path = path};
    fd = UniqueFd(bpf_prog_get_fd_by_id(info.prog_id));
  }
  if (!fd) return {.path = path};
  return {.path = path, .program = ProgramId(fd.get()).value_or(0), .ours = IsOurs(fd.get(), our_map)};
}

absl::StatusOr<std::vector<Pin>> PinsIn(const std::string& folder, uint32_t our_map) {
  TPX_ASSIGN_OR_RETURN(const std::vector<std::string> names, ListPins(folder));
  std::vector<Pin> pins;
  pins.reserve(names.size());
  for (const std::string& name : names) pins.push_back(PinAt(StrCat(folder, "/", name), our_map));
  return pins;
}

std::string Root() {
  const char* const elsewhere = secure_getenv(XDP_BPFFS_ENVVAR);
  return StrCat(elsewhere != nullptr ? elsewhere : "/sys/fs/bpf", "/xdp");
}

std::string FolderPrefix(int ifindex) { return StrCat("dispatch-", ifindex, "-"); }

// While it is held nobody takes away the folder of a dispatcher that runs. libxdp's calls take it themselves.
absl::StatusOr<UniqueFd> Lock() {
  UniqueFd lock(open(Root().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!lock) return ErrnoStatus(errno, StrCat("open ", Root()));
  if (flock(lock.get(), LOCK_EX) != 0) return ErrnoStatus(errno, StrCat("lock ", Root()));
  return lock;
}

// What runs on a device. Read without libxdp, which keeps descriptors of all that it looks at before 1.4.1,
// and with them the programs.
struct Running {
  uint32_t program = 0;
  xdp_attach_mode mode = XDP_MODE_UNSPEC;
  bool dispatcher = false;
  std::vector<Pin> parts{};

  uint32_t ours() const {
    const auto it = std::find_if(parts.begin(), parts.end(), [](const Pin& pin) { return pin.ours; });
    return it == parts.end() ? 0 : it->program;
  }
};

// Under the lock.
absl::StatusOr<Running> Look(int ifindex, uint32_t our_map) {
  LIBBPF_OPTS(bpf_xdp_query_opts, found);
  const int result = bpf_xdp_query(ifindex, 0, &found);
  if (result == -ENODEV) return Running();
  if (result != 0) return ErrnoStatus(-result, "look for XDP programs");
  Running running{.program = found.prog_id};
  if (found.attach_mode == XDP_ATTACHED_DRV) running.mode = XDP_MODE_NATIVE;
  if (found.attach_mode == XDP_ATTACHED_SKB) running.mode = XDP_MODE_SKB;
  if (running.mode == XDP_MODE_UNSPEC) return running;
  const absl::StatusOr<std::string> name = ProgramName(running.program);
  running.dispatcher = name.ok() && IsDispatcher(*name);
  if (!running.dispatcher) return running;
  const std::string folder = StrCat(Root(), "/", FolderPrefix(ifindex), running.program);
  if (!Exists(folder)) return absl::NotFoundError(StrCat("there is no ", folder));
  TPX_ASSIGN_OR_RETURN(running.parts, PinsIn(folder, our_map));
  return running;
}

// Of a dispatcher that does not run. It is one of our device's where we have a part in it, or where all of
// its parts run in the one that took its place: then it goes as a whole. Where the device is gone it may run
// in another namespace, and our part is all that goes.
absl::StatusOr<bool> RemoveLeftover(const std::string& folder, bool device_exists, uint32_t our_map,
                                    const std::vector<Pin>& running) {
  TPX_ASSIGN_OR_RETURN(const std::vector<Pin> pins, PinsIn(folder, our_map));
  const auto runs = [&](const Pin& pin) {
    return std::any_of(running.begin(), running.end(),
                       [&](const Pin& r) { return r.program == pin.program; });
  };
  const bool ours = std::any_of(pins.begin(), pins.end(), [](const Pin& pin) { return pin.ours; });
  const bool whole = device_exists && (ours || std::all_of(pins.begin(), pins.end(), runs));
  if (!ours && !whole) return false;
  for (const Pin& pin : pins)
    if (whole || pin.ours) TPX_RETURN_IF_ERROR(sys::Remove(pin.path).status());
  rmdir(folder.c_str());  // stays while others have pins there
  return ours;
}

// Under the lock.
absl::StatusOr<bool> RemoveLeftovers(int ifindex, uint32_t our_map) {
  TPX_ASSIGN_OR_RETURN(const Running running, Look(ifindex, our_map));
  char name[IF_NAMESIZE];
  const bool exists = if_indextoname(static_cast<unsigned>(ifindex), name) != nullptr;
  const std::string prefix = FolderPrefix(ifindex);
  TPX_ASSIGN_OR_RETURN(const std::vector<std::string> folders, ListPins(Root()));
  bool removed = false;
  for (const std::string& folder : folders) {
    if (!folder.starts_with(prefix) || folder == StrCat(prefix, running.program)) continue;
    TPX_ASSIGN_OR_RETURN(const bool ours,
                         RemoveLeftover(StrCat(Root(), "/", folder), exists, our_map, running.parts));
    removed |= ours;
  }
  return removed;
}

absl::StatusOr<Running> LookLocked(int ifindex, uint32_t our_map) {
  TPX_ASSIGN_OR_RETURN(const UniqueFd lock, Lock());
  return Look(ifindex, our_map);
}

}  // namespace

bool IsDispatcher(std::string_view program) { return program == "xdp_dispatcher"; }

absl::StatusOr<uint32_t> ProgramInDispatcher(int ifindex, const std::string& dir) {
  LibbpfLog log;
  TPX_ASSIGN_OR_RETURN(const uint32_t our_map, OurMap(dir));
  TPX_ASSIGN_OR_RETURN(const Running running, LookLocked(ifindex, our_map));
  return running.ours();
}

absl::Status JoinDispatcher(int ifindex, const std::string& dir, const Knobs& knobs) {
  TPX_ASSIGN_OR_RETURN(const Object object, Object::OpenPartOnMapsOf(dir, knobs));
  LibbpfLog log;
  TPX_ASSIGN_OR_RETURN(const uint32_t our_map, OurMap(dir));
  TPX_ASSIGN_OR_RETURN(Running running, LookLocked(ifindex, our_map));
  const absl::Status gone = absl::FailedPreconditionError("libxdp's dispatcher is gone");
  if (!running.dispatcher) return gone;
  LIBBPF_OPTS(xdp_program_opts, options);
  options.obj = object.handle();
  options.prog_name = kProgram;
  TPX_ASSIGN_OR_RETURN(const Program program, Wrap(xdp_program__create(&options), log));
  int result = xdp_program__set_run_prio(program.get(), kRunPriority);
  if (result == 0) result = xdp_program__attach(program.get(), ifindex, running.mode, 0);
  if (result != 0) return Failure(result, "join libxdp's dispatcher", log);
  TPX_ASSIGN_OR_RETURN(running, LookLocked(ifindex, our_map));
  if (running.ours() != 0) return absl::OkStatus();
  // libxdp attaches it alone where the dispatcher went meanwhile and there cannot be another one.
  (void)xdp_program__detach(program.get(), ifindex, running.mode, 0);
  return gone;
}

absl::StatusOr<bool> LeaveDispatcher(int ifindex, const std::string& dir) {
  LibbpfLog log;
  TPX_ASSIGN_OR_RETURN(const uint32_t our_map, OurMap(dir));
  if (our_map == 0 || !Exists(Root())) return false;
  TPX_ASSIGN_OR_RETURN(const Running running, LookLocked(ifindex, our_map));
  if (running.ours() != 0) {
    const UniqueFd fd(bpf_prog_get_fd_by_id(running.ours()));
    if (!fd) return ErrnoStatus(errno, "open the program in libxdp's dispatcher");
    TPX_ASSIGN_OR_RETURN(const Program program, Wrap(xdp_program__from_fd(fd.get()), log));
    const int result = xdp_program__detach(program.get(), ifindex, running.mode, 0);
    if (result != 0) return Failure(result, "leave libxdp's dispatcher", log);
  }
  TPX_ASSIGN_OR_RETURN(const UniqueFd lock, Lock());
  TPX_ASSIGN_OR_RETURN(const bool leftovers, RemoveLeftovers(ifindex, our_map));
  return running.ours() != 0 || leftovers;
}

}  // namespace tpx::bpf
