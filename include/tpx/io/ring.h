// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <liburing.h>

#include <cstdint>
#include <memory>
#include <utility>

#include "absl/status/statusor.h"

namespace tpx::io {

// One thread's io_uring, used to learn which stream sockets are ready and to
// receive datagrams. Bytes of streams are moved by plain system calls: the
// kernel hands IORING_OP_SPLICE to another thread always.
//
// Created on any thread; Enable binds it to the calling one, and everything
// below Enable is for that thread alone.
//
// A request holds a reference on its file until it ends. So a socket that
// is closed while armed says nothing to its peer until Cancel was
// submitted, and after a SIGKILL these references are dropped by a kernel
// worker some time after the process has gone.
class Ring {
 public:
  struct Completion {
    uint64_t token;
    int result;  // poll mask, size, or negative errno
    bool more;   // the request stays armed
    int buffer;  // that was filled, of the request's group; -1: none
  };

  // Fails with the cause when the system does not allow io_uring.
  static absl::StatusOr<std::unique_ptr<Ring>> Create(uint32_t submissions, uint32_t completions);
  ~Ring();
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;

  absl::Status Enable();
  uint32_t setup_flags() const { return ring_.flags; }
  io_uring& raw() { return ring_; }  // for the other classes of this layer

  // Reports each change of readiness of `fd` until removed; a completion
  // without `more` ended the request. A completion tells all that is ready at
  // its time, but only a change makes one: read or write until EAGAIN.
  void PollMultishot(int fd, uint32_t events, uint64_t token);

  // Receives datagram after datagram into buffers of the group until removed or
  // refused (Linux 6.0). A buffer holds an io_uring_recvmsg_out, then the name,
  // the control messages and the bytes, in places of the sizes that `shape`
  // gives; it must stay until the next SubmitAndWait.
  void RecvmsgMultishot(int fd, const msghdr* shape, uint16_t group, uint64_t token);

  // Ends the request that has this token; its last completion follows. There may
  // also be one completion of `report_token`, to be ignored. (Not POLL_REMOVE:
  // that leaves a poll armed which is about to complete.)
  void Cancel(uint64_t token, uint64_t report_token);

  // Hands the queued requests to the kernel, for instance before a descriptor of theirs is closed.
  void Submit() { io_uring_submit(&ring_); }

  // Submits, then waits for so many completions, at most this long. 0, or a
  // negative errno with which the ring cannot be used any more.
  int SubmitAndWait(uint64_t timeout_ns, uint32_t completions = 1);

  // Whether every completion that there was has been reaped.
  bool IsIdle() { return io_uring_cq_ready(&ring_) == 0 && !io_uring_cq_has_overflow(&ring_); }

  // Requests that fit before a submission is forced.
  uint32_t SubmissionSpace() const { return io_uring_sq_space_left(&ring_); }

  // Calls `handler` with up to `max` completions; returns how many there were.
  // The handler may queue requests.
  template <typename Handler>
  uint32_t Reap(uint32_t max, Handler&& handler) {
    uint32_t n = 0;
    for (io_uring_cqe* cqe = nullptr; n < max && io_uring_peek_cqe(&ring_, &cqe) == 0; ++n) {
      const bool filled = (cqe->flags & IORING_CQE_F_BUFFER) != 0;
      const Completion c{.token = cqe->user_data,
                         .result = cqe->res,
                         .more = (cqe->flags & IORING_CQE_F_MORE) != 0,
                         .buffer = filled ? static_cast<int>(cqe->flags >> IORING_CQE_BUFFER_SHIFT) : -1};
      io_uring_cqe_seen(&ring_, cqe);
      handler(c);
    }
    return n;
  }

 private:
  Ring() = default;
  io_uring_sqe* NextSqe();

  io_uring ring_{};
  bool ready_ = false;
  int failed_ = 0;  // negative errno
};

}  // namespace tpx::io
