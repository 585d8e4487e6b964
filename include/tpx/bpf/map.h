// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <linux/bpf.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tpx/base/status.h"
#include "tpx/base/strings.h"
#include "tpx/base/unique_fd.h"

namespace tpx::bpf {

enum class Access { kReadOnly, kReadWrite };

// What a map must look like to be used through a typed handle.
struct MapShape {
  bpf_map_type type;
  uint32_t key_size;
  uint32_t value_size;
};

// Opens a pinned map; kFailedPrecondition when its shape differs, which means
// that another version of the program made it.
absl::StatusOr<UniqueFd> OpenPinnedMap(const std::string& path, const MapShape& shape, Access access);

absl::StatusOr<UniqueFd> OpenMapById(uint32_t id, std::string_view what);

struct NewMap {
  const char* name;
  MapShape shape;
  uint32_t max_entries;
  uint32_t flags = 0;
};
absl::StatusOr<UniqueFd> CreateMap(const NewMap& map);

// The calls behind the handles; `what` names the map in errors.
absl::Status LookupElement(int fd, const void* key, void* value, std::string_view what);
absl::Status UpdateElement(int fd, const void* key, const void* value, uint64_t flags, std::string_view what);
absl::Status DeleteElement(int fd, const void* key, std::string_view what);
// False after the last key. `key` null starts.
absl::StatusOr<bool> NextKey(int fd, const void* key, void* next, std::string_view what);
// Inserts `count` entries of two parallel arrays, in few system calls where
// the kernel can.
absl::Status UpdateBatch(int fd, const void* keys, size_t key_size, const void* values, size_t value_size,
                         size_t count, std::string_view what);
// The keys of a hash, one behind the other, in few system calls and in bounded time
// whatever is inserted and deleted meanwhile; what is there all the time is among them.
absl::StatusOr<std::vector<char>> KeysOfHash(int fd, size_t key_size, size_t value_size,
                                             std::string_view what);
// CPUs a per-CPU map has values for.
absl::StatusOr<size_t> PossibleCpus();

// A map whose keys and values have one C++ type each. Owns its descriptor.
template <typename K, typename V>
class Map {
  static_assert(std::has_unique_object_representations_v<K> && std::has_unique_object_representations_v<V>);

 public:
  static constexpr MapShape Shape(bpf_map_type type) { return {type, sizeof(K), sizeof(V)}; }

  static absl::StatusOr<Map> OpenPinned(const std::string& path, bpf_map_type type, Access access) {
    TPX_ASSIGN_OR_RETURN(UniqueFd fd, OpenPinnedMap(path, Shape(type), access));
    return Map(std::move(fd), path.substr(path.rfind('/') + 1));
  }
  static absl::StatusOr<Map> Create(const char* name, bpf_map_type type, uint32_t max_entries,
                                    uint32_t flags = 0) {
    TPX_ASSIGN_OR_RETURN(UniqueFd fd, CreateMap({name, Shape(type), max_entries, flags}));
    return Map(std::move(fd), name);
  }

  // One that another map holds.
  static absl::StatusOr<Map> OpenId(uint32_t id, const char* name) {
    TPX_ASSIGN_OR_RETURN(UniqueFd fd, OpenMapById(id, name));
    return Map(std::move(fd), name);
  }

  int fd() const { return fd_.get(); }
  const std::string& name() const { return name_; }

  absl::StatusOr<V> Lookup(const K& key) const {  // kNotFound when absent
    V value{};
    TPX_RETURN_IF_ERROR(LookupElement(fd_.get(), &key, &value, name_));
    return value;
  }
  absl::Status Update(const K& key, const V& value, uint64_t flags = BPF_ANY) const {
    return UpdateElement(fd_.get(), &key, &value, flags, name_);
  }
  absl::Status Delete(const K& key) const { return DeleteElement(fd_.get(), &key, name_); }

  absl::StatusOr<std::vector<K>> Keys() const {
    std::vector<K> keys;
    K next{};
    while (true) {
      TPX_ASSIGN_OR_RETURN(bool more,
                           NextKey(fd_.get(), keys.empty() ? nullptr : &keys.back(), &next, name_));
      if (!more) return keys;
      keys.push_back(next);
    }
  }

 private:
  Map(UniqueFd fd, std::string name) : fd_(std::move(fd)), name_(std::move(name)) {}
  UniqueFd fd_;
  std::string name_;
};

// An array with one value per CPU.
template <typename V>
class PerCpuArray {
  static_assert(std::has_unique_object_representations_v<V> && sizeof(V) % 8 == 0,
                "the kernel rounds per-CPU values up to 8 bytes");

 public:
  static absl::StatusOr<PerCpuArray> OpenPinned(const std::string& path, Access access) {
    TPX_ASSIGN_OR_RETURN(
        UniqueFd fd, OpenPinnedMap(path, {BPF_MAP_TYPE_PERCPU_ARRAY, sizeof(uint32_t), sizeof(V)}, access));
    TPX_ASSIGN_OR_RETURN(size_t cpus, PossibleCpus());
    return PerCpuArray(std::move(fd), path.substr(path.rfind('/') + 1), cpus);
  }

  size_t cpus() const { return cpus_; }
  absl::StatusOr<std::vector<V>> Lookup(uint32_t index) const {
    std::vector<V> values(cpus_);
    TPX_RETURN_IF_ERROR(LookupElement(fd_.get(), &index, values.data(), name_));
    return values;
  }
  // `values` has one entry per CPU.
  absl::Status Update(uint32_t index, const std::vector<V>& values) const {
    return UpdateElement(fd_.get(), &index, values.data(), BPF_ANY, name_);
  }

 private:
  PerCpuArray(UniqueFd fd, std::string name, size_t cpus)
      : fd_(std::move(fd)), name_(std::move(name)), cpus_(cpus) {}
  UniqueFd fd_;
  std::string name_;
  size_t cpus_;
};

}  // namespace tpx::bpf
