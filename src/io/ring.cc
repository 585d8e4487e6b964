// SPDX-License-Identifier: Apache-2.0
#include "tpx/io/ring.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "tpx/base/status.h"

namespace tpx::io {
namespace {

// From best to plainest; a kernel answers EINVAL to flags it does not know.
constexpr uint32_t kSetupFlags[] = {
    IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,  // 6.1
    IORING_SETUP_COOP_TASKRUN,                                // 5.19
    0,
};

absl::Status Refusal(int error) {
  const absl::Status status = ErrnoStatus(error, "io_uring_setup");
  if (error == ENOSYS) {
    return Annotate(status, "this kernel, or a seccomp filter, has no io_uring; the data plane needs it");
  }
  if (error == ENOMEM) return Annotate(status, "io_uring needs more locked memory; raise RLIMIT_MEMLOCK");
  if (error != EPERM) return status;
  int disabled = 0;
  std::ifstream("/proc/sys/kernel/io_uring_disabled") >> disabled;
  if (disabled != 0) {
    return Annotate(status, absl::StrCat("io_uring is switched off by kernel.io_uring_disabled=", disabled,
                                         "; set it to 0"));
  }
  return Annotate(status,
                  "io_uring is refused, probably by the container's seccomp profile; allow io_uring_setup, "
                  "io_uring_enter and io_uring_register");
}

}  // namespace

absl::StatusOr<std::unique_ptr<Ring>> Ring::Create(uint32_t submissions, uint32_t completions) {
  std::unique_ptr<Ring> ring(new Ring);
  int result = -EINVAL;
  for (uint32_t flags : kSetupFlags) {
    io_uring_params params{};
    params.flags = flags | IORING_SETUP_R_DISABLED | IORING_SETUP_CQSIZE;
    params.cq_entries = completions;
    result = io_uring_queue_init_params(submissions, &ring->ring_, &params);
    if (result != -EINVAL) break;
  }
  if (result < 0) return Refusal(-result);
  ring->ready_ = true;
  return ring;
}

Ring::~Ring() {
  if (ready_) io_uring_queue_exit(&ring_);
}

absl::Status Ring::Enable() {
  // By hand: liburing 2.3 declares io_uring_enable_rings but does not export it.
  const long result = syscall(SYS_io_uring_register, ring_.ring_fd, IORING_REGISTER_ENABLE_RINGS, nullptr, 0);
  return result < 0 ? ErrnoStatus(errno, "io_uring_register(ENABLE_RINGS)") : absl::OkStatus();
}

io_uring_sqe* Ring::NextSqe() {
  io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
  if (sqe != nullptr) return sqe;
  const int result = io_uring_submit(&ring_);
  sqe = io_uring_get_sqe(&ring_);
  // Only a ring that is broken takes nothing. The request is lost, so the
  // owner must give the ring up: SubmitAndWait tells.
  if (sqe == nullptr && failed_ == 0) failed_ = result < 0 ? result : -EBUSY;
  return sqe;
}

void Ring::PollMultishot(int fd, uint32_t events, uint64_t token) {
  io_uring_sqe* sqe = NextSqe();
  if (sqe == nullptr) return;
  io_uring_prep_poll_multishot(sqe, fd, events);
  io_uring_sqe_set_data64(sqe, token);
}

void Ring::RecvmsgMultishot(int fd, const msghdr* shape, uint16_t group, uint64_t token) {
  io_uring_sqe* sqe = NextSqe();
  if (sqe == nullptr) return;
  io_uring_prep_recvmsg_multishot(sqe, fd, const_cast<msghdr*>(shape), 0);
  sqe->flags |= IOSQE_BUFFER_SELECT;
  sqe->buf_group = group;
  io_uring_sqe_set_data64(sqe, token);
}

void Ring::Cancel(uint64_t token, uint64_t report_token) {
  io_uring_sqe* sqe = NextSqe();
  if (sqe == nullptr) return;
  io_uring_prep_cancel64(sqe, token, 0);
  if ((ring_.features & IORING_FEAT_CQE_SKIP) != 0) sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;  // 5.17
  io_uring_sqe_set_data64(sqe, report_token);
}

int Ring::SubmitAndWait(uint64_t timeout_ns, uint32_t completions) {
  if (failed_ != 0) return failed_;
  constexpr uint64_t kNsPerSecond = 1'000'000'000;
  __kernel_timespec timeout{.tv_sec = static_cast<int64_t>(timeout_ns / kNsPerSecond),
                            .tv_nsec = static_cast<int64_t>(timeout_ns % kNsPerSecond)};
  io_uring_cqe* cqe = nullptr;
  // With nothing to wait for this still enters the kernel: deferred completion
  // work runs nowhere else.
  const int result = timeout_ns == 0
                         ? io_uring_submit_and_get_events(&ring_)
                         : io_uring_submit_and_wait_timeout(&ring_, &cqe, completions, &timeout, nullptr);
  switch (result) {
    case -ETIME:
    case -EINTR:
    case -EAGAIN:
    case -EBUSY:  // completions overflowed; reaping them makes room
      return 0;
    default:
      return result < 0 ? result : 0;
  }
}

}  // namespace tpx::io
