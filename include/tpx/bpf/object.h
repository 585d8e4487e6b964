// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

struct bpf_map;
struct bpf_object;
struct bpf_program;
struct tpx_bpf;

namespace tpx::bpf {

struct Knobs {
  uint32_t steer_mark = 0;
  uint32_t mark_mask = 0;
  uint32_t own_mark = 0;
  bool sees_no_socket = false;  // judges every flow as a new one, and leaves the socket table alone
  bool local = false;           // with the programs for local flows, which take as long to load as the others
};

// All programs and maps, loaded into the kernel. They go when this object goes,
// unless they are pinned or attached.
class Object {
 public:
  // A program that the verifier rejects is named, with the end of its log.
  static absl::StatusOr<Object> Load(const Knobs& knobs);
  // The same programs on the maps that are pinned in `dir`; an error when one of
  // those is missing or has another layout.
  static absl::StatusOr<Object> LoadOnMapsOf(const std::string& dir, const Knobs& knobs);

  // The programs for local flows alone, on the maps that are pinned in `dir`.
  static absl::StatusOr<Object> LoadLocalOnMapsOf(const std::string& dir, const Knobs& knobs);

  // The part of XDP in a dispatcher alone, on the maps that are pinned in `dir`, and not loaded: libxdp does
  // that.
  static absl::StatusOr<Object> OpenPartOnMapsOf(const std::string& dir, const Knobs& knobs);

  // The programs that judge new flows of the LAN and local ones, for runs on flows that are none. Of the maps
  // those named are the ones pinned in `dir`, the others are its own.
  static absl::StatusOr<Object> LoadForTrial(const std::string& dir, std::span<const char* const> shared,
                                             const Knobs& knobs);

  // The program that judges flows which are there already, with maps of its own
  // and only those that it needs.
  static absl::StatusOr<Object> LoadJudge();

  // The program that looks for watchers, of the devices that are in the map pinned in `dir`.
  static absl::StatusOr<Object> LoadWatchers(const std::string& dir);

  int lan_fd() const;
  int wan_fd() const;
  int sk_lookup_fd() const;
  int xdp_fd() const;
  int judge_fd() const;
  int watchers_fd() const;
  int try_local_fd() const;
  bpf_object* handle() const;
  // Pin each program that is loaded, or each map, into the directory under its name.
  absl::Status PinPrograms(const std::string& dir) const;
  absl::Status PinMaps(const std::string& dir) const;  // its own

 private:
  struct Destroy {
    void operator()(tpx_bpf* skeleton) const;
  };
  explicit Object(tpx_bpf* skeleton) : skeleton_(skeleton) {}
  static absl::StatusOr<Object> Open(const Knobs& knobs);
  void KeepOnly(bpf_program* program, std::span<const std::string_view> maps);
  absl::Status ReuseMap(bpf_map* map, const std::string& dir);
  absl::Status ReuseMaps(const std::string& dir);
  absl::Status LoadIntoKernel();
  std::unique_ptr<tpx_bpf, Destroy> skeleton_;
};

// Tells the programs and maps of this build from those of other builds.
std::string BuildId();

// What is worth showing of libbpf's messages about a failed load: the program
// with its last verifier lines, or else the last message.
std::string SummariseLog(std::string_view log);

}  // namespace tpx::bpf
