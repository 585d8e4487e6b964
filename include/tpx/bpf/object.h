// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

struct tpx_bpf;

namespace tpx::bpf {

struct Knobs {
  uint32_t steer_mark = 0;
  uint32_t mark_mask = 0;
  uint32_t own_mark = 0;
};

// All programs and maps, loaded into the kernel. They go when this object goes,
// unless they are pinned or attached.
class Object {
 public:
  // A program that the verifier rejects is named, with the end of its log.
  static absl::StatusOr<Object> Load(const Knobs& knobs);

  int lan_fd() const;
  int wan_fd() const;
  int sk_lookup_fd() const;
  // Pins each program and map into the directory under its name.
  absl::Status Pin(const std::string& dir) const;

 private:
  struct Destroy {
    void operator()(tpx_bpf* skeleton) const;
  };
  explicit Object(tpx_bpf* skeleton) : skeleton_(skeleton) {}
  std::unique_ptr<tpx_bpf, Destroy> skeleton_;
};

// What is worth showing of libbpf's messages about a failed load: the program
// with its last verifier lines, or else the last message.
std::string SummariseLog(std::string_view log);

}  // namespace tpx::bpf
