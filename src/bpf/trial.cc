// SPDX-License-Identifier: Apache-2.0
#include "tpx/bpf/trial.h"

#include <bpf/bpf.h>
#include <linux/bpf.h>

#include "tpx/base/status.h"

namespace tpx::bpf {

absl::Status RunTrial(int program_fd, const TrialPacket& packet) {
  __sk_buff context{};
  context.ifindex = static_cast<uint32_t>(packet.ifindex);
  context.mark = packet.mark;
  LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = packet.frame.data(),
              .data_size_in = static_cast<uint32_t>(packet.frame.size()), .ctx_in = &context,
              .ctx_size_in = sizeof(context), .repeat = 1);
  const int result = bpf_prog_test_run_opts(program_fd, &options);
  return result == 0 ? absl::OkStatus() : ErrnoStatus(-result, "run of the program on a trial packet");
}

absl::Status RunLocalTrial(int program_fd, const tpx_local_trial& trial) {
  return RunTrial(program_fd, {.frame = std::as_bytes(std::span(&trial, 1))});
}

absl::Status RunJudge(int program_fd) {
  LIBBPF_OPTS(bpf_test_run_opts, options);
  const int result = bpf_prog_test_run_opts(program_fd, &options);
  return result == 0 ? absl::OkStatus() : ErrnoStatus(-result, "run of the judge");
}

absl::Status RunWatchers(int program_fd, tpx_watchers& watchers) {
  LIBBPF_OPTS(bpf_test_run_opts, options, .ctx_in = &watchers, .ctx_size_in = sizeof(watchers));
  const int result = bpf_prog_test_run_opts(program_fd, &options);
  return result == 0 ? absl::OkStatus() : ErrnoStatus(-result, "run of the program that looks for watchers");
}

}  // namespace tpx::bpf
