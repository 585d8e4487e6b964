// SPDX-License-Identifier: Apache-2.0
#include "tpx/bpf/map.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include <algorithm>
#include <cerrno>

namespace tpx::bpf {

absl::StatusOr<UniqueFd> OpenPinnedMap(const std::string& path, const MapShape& shape, Access access) {
  LIBBPF_OPTS(bpf_obj_get_opts, options);
  options.file_flags = access == Access::kReadOnly ? static_cast<uint32_t>(BPF_F_RDONLY) : 0;
  UniqueFd fd(bpf_obj_get_opts(path.c_str(), &options));
  if (!fd) return ErrnoStatus(errno, StrCat("open pin ", path));
  bpf_map_info info{};
  uint32_t size = sizeof(info);
  if (bpf_obj_get_info_by_fd(fd.get(), &info, &size) != 0)
    return ErrnoStatus(errno, StrCat("inspect pin ", path));
  if (info.type != shape.type || info.key_size != shape.key_size || info.value_size != shape.value_size) {
    return absl::FailedPreconditionError(StrCat(
        path, " has another layout (type ", info.type, ", key ", info.key_size, ", value ", info.value_size,
        " bytes; expected type ", static_cast<uint32_t>(shape.type), ", key ", shape.key_size, ", value ",
        shape.value_size, "): it was made by another version, run 'tpx-bpf detach' and 'tpx-bpf load'"));
  }
  return fd;
}

absl::StatusOr<UniqueFd> OpenMapById(uint32_t id, std::string_view what) {
  UniqueFd fd(bpf_map_get_fd_by_id(id));
  if (!fd) return ErrnoStatus(errno, StrCat("open map ", what));
  return fd;
}

absl::StatusOr<UniqueFd> CreateMap(const NewMap& map) {
  LIBBPF_OPTS(bpf_map_create_opts, options);
  options.map_flags = map.flags;
  UniqueFd fd(bpf_map_create(map.shape.type, map.name, map.shape.key_size, map.shape.value_size,
                             map.max_entries, &options));
  if (!fd) return ErrnoStatus(errno, StrCat("create map ", map.name));
  return fd;
}

absl::Status LookupElement(int fd, const void* key, void* value, std::string_view what) {
  return bpf_map_lookup_elem(fd, key, value) == 0 ? absl::OkStatus()
                                                  : ErrnoStatus(errno, StrCat("lookup in ", what));
}

absl::Status UpdateElement(int fd, const void* key, const void* value, uint64_t flags,
                           std::string_view what) {
  return bpf_map_update_elem(fd, key, value, flags) == 0 ? absl::OkStatus()
                                                         : ErrnoStatus(errno, StrCat("update of ", what));
}

absl::Status DeleteElement(int fd, const void* key, std::string_view what) {
  return bpf_map_delete_elem(fd, key) == 0 ? absl::OkStatus()
                                           : ErrnoStatus(errno, StrCat("delete from ", what));
}

absl::StatusOr<bool> NextKey(int fd, const void* key, void* next, std::string_view what) {
  if (bpf_map_get_next_key(fd, key, next) == 0) return true;
  if (errno == ENOENT) return false;
  return ErrnoStatus(errno, StrCat("next key of ", what));
}

absl::Status UpdateBatch(int fd, const void* keys, size_t key_size, const void* values, size_t value_size,
                         size_t count, std::string_view what) {
  constexpr size_t kPerCall = 16384;
  const auto* key = static_cast<const char*>(keys);
  const auto* value = static_cast<const char*>(values);
  for (size_t done = 0; done < count;) {
    auto n = static_cast<uint32_t>(std::min(count - done, kPerCall));
    const int result =
        bpf_map_update_batch(fd, key + done * key_size, value + done * value_size, &n, nullptr);
    if (result != 0) {
      // A kernel that has no batches for this type of map; else the first
      // element that failed fails again here and gives the error.
      n = 1;
      TPX_RETURN_IF_ERROR(UpdateElement(fd, key + done * key_size, value + done * value_size, BPF_ANY, what));
    }
    done += n;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<char>> KeysOfHash(int fd, size_t key_size, size_t value_size,
                                             std::string_view what) {
  constexpr uint32_t kPerCall = 4096;  // more than one bucket ever holds
  std::vector<char> keys, values(kPerCall * value_size);
  uint32_t bucket = 0;
  for (void* from = nullptr;; from = &bucket) {
    const size_t before = keys.size();
    keys.resize(before + kPerCall * key_size);
    uint32_t n = kPerCall;
    const int result =
        bpf_map_lookup_batch(fd, from, &bucket, keys.data() + before, values.data(), &n, nullptr);
    if (result != 0 && result != -ENOENT) return ErrnoStatus(-result, StrCat("reading ", what));
    keys.resize(before + n * key_size);
    if (result == -ENOENT) return keys;
  }
}

absl::StatusOr<size_t> PossibleCpus() {
  const int cpus = libbpf_num_possible_cpus();
  if (cpus < 0) return ErrnoStatus(-cpus, "count of possible CPUs");
  return static_cast<size_t>(cpus);
}

}  // namespace tpx::bpf
