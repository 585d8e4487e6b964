// SPDX-License-Identifier: Apache-2.0
#include "tpx/bpf/object.h"

#include <bpf/libbpf.h>
#include <sys/random.h>

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "libbpf_log.h"
#include "tpx.skel.h"
#include "tpx/base/status.h"
#include "tpx/base/strings.h"
#include "tpx/bpf/link.h"
#include "tpx/bpf/pin_dir.h"

namespace tpx::bpf {
namespace {

constexpr size_t kVerifierLines = 20;

// Of all maps those that the program uses; the judge's last one is its own.
constexpr std::string_view kMapsOfJudge[] = {"tpx_control", "tpx_tables", "tpx_prefixes", "tpx_attributes",
                                             "tpx_questions"};

constexpr std::string_view kMapsOfWatchers[] = {"tpx_devices"};

bool IsLocal(std::string_view program) {
  const auto programs = LocalPrograms();
  return std::find(programs.begin(), programs.end(), program) != programs.end();
}

absl::Status PinOne(int result, std::string_view what, const std::string& path) {
  return result == 0 ? absl::OkStatus() : ErrnoStatus(-result, StrCat("pin ", what, " at ", path));
}

}  // namespace

std::string SummariseLog(std::string_view log) {
  constexpr std::string_view kBegin = "-- BEGIN PROG LOAD LOG --\n";
  constexpr std::string_view kEnd = "-- END PROG LOAD LOG --";
  size_t begin = log.rfind(kBegin);
  if (begin == std::string_view::npos) {
    std::vector<std::string> lines = absl::StrSplit(ToAbsl(log), '\n', absl::SkipWhitespace());
    return lines.empty() ? "" : lines.front();
  }
  // The line reads: libbpf: prog 'NAME': -- BEGIN PROG LOAD LOG --
  const size_t line = log.rfind('\n', begin) == std::string_view::npos ? 0 : log.rfind('\n', begin) + 1;
  std::vector<std::string> head = absl::StrSplit(ToAbsl(log.substr(line, begin - line)), '\'');
  begin += kBegin.size();
  std::string_view body = log.substr(begin, log.find(kEnd, begin) - begin);
  body = body.substr(0, body.rfind('\n'));
  std::vector<std::string> lines = absl::StrSplit(ToAbsl(body), '\n', absl::SkipWhitespace());
  if (lines.size() > kVerifierLines) lines.erase(lines.begin(), lines.end() - kVerifierLines);
  return StrCat("the kernel's verifier rejected program ", head.size() > 1 ? head[1] : "", ":\n  ",
                absl::StrJoin(lines, "\n  "));
}

std::string BuildId() {
  size_t size = 0;
  const auto* bytes = static_cast<const unsigned char*>(tpx_bpf__elf_bytes(&size));
  uint64_t hash = 0xcbf29ce484222325;  // FNV-1a: tells builds apart, guards against nothing
  for (size_t i = 0; i < size; ++i) hash = (hash ^ bytes[i]) * 0x100000001b3;
  return absl::StrFormat("%016x", hash);
}

void Object::Destroy::operator()(tpx_bpf* skeleton) const { tpx_bpf__destroy(skeleton); }

absl::StatusOr<Object> Object::Open(const Knobs& knobs) {
  LibbpfLog log;
  Object object(tpx_bpf__open());
  if (object.skeleton_ == nullptr)
    return Annotate(ErrnoStatus(errno, "open BPF object"), SummariseLog(log.text()));
  object.skeleton_->rodata->tpx_steer_mark = knobs.steer_mark;
  object.skeleton_->rodata->tpx_mark_mask = knobs.mark_mask;
  object.skeleton_->rodata->tpx_own_mark = knobs.own_mark;
  object.skeleton_->rodata->tpx_sees_no_socket = knobs.sees_no_socket ? 1 : 0;
  uint64_t key = 0;
  if (getrandom(&key, sizeof(key), 0) != sizeof(key)) return ErrnoStatus(errno, "getrandom");
  object.skeleton_->rodata->tpx_note_key = key;
  bpf_program* program = nullptr;
  bpf_object__for_each_program(program, object.skeleton_->obj) {
    if (!knobs.local && IsLocal(bpf_program__name(program))) bpf_program__set_autoload(program, false);
  }
  bpf_program__set_autoload(object.skeleton_->progs.tpx_xdp_part, false);
  bpf_program__set_autoload(object.skeleton_->progs.tpx_judge, false);
  bpf_program__set_autoload(object.skeleton_->progs.tpx_try_local, false);
  bpf_program__set_autoload(object.skeleton_->progs.tpx_watchers, false);
  bpf_map__set_autocreate(object.skeleton_->maps.tpx_questions, false);
  return object;
}

absl::Status Object::LoadIntoKernel() {
  LibbpfLog log;
  const int result = tpx_bpf__load(skeleton_.get());
  if (result == 0) return absl::OkStatus();
  const absl::Status status = ErrnoStatus(-result, "load BPF object");
  return absl::Status(status.code(), StrCat(status.message(), "; ", SummariseLog(log.text())));
}

absl::StatusOr<Object> Object::Load(const Knobs& knobs) {
  TPX_ASSIGN_OR_RETURN(Object object, Open(knobs));
  TPX_RETURN_IF_ERROR(object.LoadIntoKernel());
  return object;
}

absl::Status Object::ReuseMap(bpf_map* map, const std::string& dir) {
  const std::string path = StrCat(dir, "/", bpf_map__name(map));
  // libbpf would make a map that is missing, and compares the layout of one that is there.
  if (!Exists(path)) return absl::FailedPreconditionError(StrCat("there is no pin ", path));
  const int result = bpf_map__set_pin_path(map, path.c_str());
  return result == 0 ? absl::OkStatus() : ErrnoStatus(-result, StrCat("reuse ", path));
}

absl::Status Object::ReuseMaps(const std::string& dir) {
  bpf_map* map = nullptr;
  bpf_object__for_each_map(map, skeleton_->obj) {
    const bool pinned = !bpf_map__is_internal(map) && bpf_map__autocreate(map);
    if (pinned) TPX_RETURN_IF_ERROR(ReuseMap(map, dir));
  }
  return absl::OkStatus();
}

absl::StatusOr<Object> Object::LoadOnMapsOf(const std::string& dir, const Knobs& knobs) {
  TPX_ASSIGN_OR_RETURN(Object object, Open(knobs));
  TPX_RETURN_IF_ERROR(object.ReuseMaps(dir));
  TPX_RETURN_IF_ERROR(object.LoadIntoKernel());
  return object;
}

absl::StatusOr<Object> Object::LoadLocalOnMapsOf(const std::string& dir, const Knobs& knobs) {
  TPX_ASSIGN_OR_RETURN(Object object, Open(knobs));
  bpf_program* program = nullptr;
  bpf_object__for_each_program(program, object.skeleton_->obj) {
    bpf_program__set_autoload(program, IsLocal(bpf_program__name(program)));
  }
  TPX_RETURN_IF_ERROR(object.ReuseMaps(dir));
  TPX_RETURN_IF_ERROR(object.LoadIntoKernel());
  return object;
}

absl::StatusOr<Object> Object::OpenPartOnMapsOf(const std::string& dir, const Knobs& knobs) {
  TPX_ASSIGN_OR_RETURN(Object object, Open(knobs));
  bpf_program* program = nullptr;
  bpf_object__for_each_program(program, object.skeleton_->obj) {
    bpf_program__set_autoload(program, program == object.skeleton_->progs.tpx_xdp_part);
  }
  TPX_RETURN_IF_ERROR(object.ReuseMaps(dir));
  return object;
}

absl::StatusOr<Object> Object::LoadForTrial(const std::string& dir, std::span<const char* const> shared,
                                            const Knobs& knobs) {
  TPX_ASSIGN_OR_RETURN(Object object, Open(knobs));
  bpf_program* program = nullptr;
  bpf_object__for_each_program(program, object.skeleton_->obj) {
    const bool asked =
        program == object.skeleton_->progs.tpx_lan || program == object.skeleton_->progs.tpx_try_local;
    bpf_program__set_autoload(program, asked);
  }
  for (const char* name : shared) {
    bpf_map* map = bpf_object__find_map_by_name(object.skeleton_->obj, name);
    if (map == nullptr) return absl::InternalError(StrCat("there is no map ", name));
    TPX_RETURN_IF_ERROR(object.ReuseMap(map, dir));
  }
  TPX_RETURN_IF_ERROR(object.LoadIntoKernel());
  return object;
}

// Of the maps those that it uses.
void Object::KeepOnly(bpf_program* program, std::span<const std::string_view> maps) {
  bpf_program* each = nullptr;
  bpf_object__for_each_program(each, skeleton_->obj) bpf_program__set_autoload(each, each == program);
  bpf_map* map = nullptr;
  bpf_object__for_each_map(map, skeleton_->obj) {
    const bool used = std::ranges::find(maps, std::string_view(bpf_map__name(map))) != maps.end();
    if (!bpf_map__is_internal(map)) bpf_map__set_autocreate(map, used);
  }
}

absl::StatusOr<Object> Object::LoadJudge() {
  TPX_ASSIGN_OR_RETURN(Object object, Open({}));
  object.KeepOnly(object.skeleton_->progs.tpx_judge, kMapsOfJudge);
  TPX_RETURN_IF_ERROR(object.LoadIntoKernel());
  return object;
}

absl::StatusOr<Object> Object::LoadWatchers(const std::string& dir) {
  TPX_ASSIGN_OR_RETURN(Object object, Open({}));
  object.KeepOnly(object.skeleton_->progs.tpx_watchers, kMapsOfWatchers);
  TPX_RETURN_IF_ERROR(object.ReuseMaps(dir));
  TPX_RETURN_IF_ERROR(object.LoadIntoKernel());
  return object;
}

bpf_object* Object::handle() const { return skeleton_->obj; }
int Object::lan_fd() const { return bpf_program__fd(skeleton_->progs.tpx_lan); }
int Object::wan_fd() const { return bpf_program__fd(skeleton_->progs.tpx_wan); }
int Object::xdp_fd() const { return bpf_program__fd(skeleton_->progs.tpx_xdp_early); }
int Object::sk_lookup_fd() const { return bpf_program__fd(skeleton_->progs.tpx_sk_lookup); }
int Object::try_local_fd() const { return bpf_program__fd(skeleton_->progs.tpx_try_local); }
int Object::judge_fd() const { return bpf_program__fd(skeleton_->progs.tpx_judge); }
int Object::watchers_fd() const { return bpf_program__fd(skeleton_->progs.tpx_watchers); }

absl::Status Object::PinMaps(const std::string& dir) const {
  LibbpfLog log;
  bpf_map* map = nullptr;
  bpf_object__for_each_map(map, skeleton_->obj) {
    // Constants and such belong to the programs alone, and what is pinned to others.
    if (bpf_map__is_internal(map) || bpf_map__is_pinned(map) || !bpf_map__autocreate(map)) continue;
    const std::string path = StrCat(dir, "/", bpf_map__name(map));
    TPX_RETURN_IF_ERROR(PinOne(bpf_map__pin(map, path.c_str()), bpf_map__name(map), path));
  }
  return absl::OkStatus();
}

absl::Status Object::PinPrograms(const std::string& dir) const {
  LibbpfLog log;
  bpf_program* program = nullptr;
  bpf_object__for_each_program(program, skeleton_->obj) {
    if (!bpf_program__autoload(program)) continue;
    if (!bpf_program__autoload(program)) continue;
    const std::string path = StrCat(dir, "/", bpf_program__name(program));
    TPX_RETURN_IF_ERROR(PinOne(bpf_program__pin(program, path.c_str()), bpf_program__name(program), path));
  }
  return absl::OkStatus();
}

}  // namespace tpx::bpf
