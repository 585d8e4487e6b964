// SPDX-License-Identifier: Apache-2.0
// What moving bulk from one TCP socket to another costs, by engine. A producer
// and a consumer thread keep the sockets busy; the relaying thread is measured.
//   relay_cpu_s_per_GB  its own CPU time
//   cpu_s_per_GB        of the whole process: also both ends, and the kernel's
//                       worker threads that run on behalf of the ring
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <liburing.h>
#include <sys/socket.h>
#include <time.h>

#include <cstdlib>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#include "tpx/base/address.h"
#include "tpx/base/unique_fd.h"

namespace tpx {
namespace {

constexpr size_t kBytesPerIteration = 16 << 20;
constexpr size_t kCopyBytes = 64 << 10;

[[noreturn]] void Die(const char* what) {
  perror(what);
  std::exit(1);
}

struct TcpPair {
  UniqueFd a, b;
};

TcpPair Connected() {
  sockaddr_storage address{};
  socklen_t length =
      Endpoint{.addr = IpAddr::Parse("127.0.0.1").value(), .port = 0}.ToNativeSockaddr(address);
  auto* raw = reinterpret_cast<sockaddr*>(&address);
  UniqueFd listener(socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (bind(listener.get(), raw, length) != 0 || listen(listener.get(), 1) != 0) Die("listen");
  length = sizeof(address);
  if (getsockname(listener.get(), raw, &length) != 0) Die("getsockname");
  TcpPair pair;
  pair.a = UniqueFd(socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (connect(pair.a.get(), raw, length) != 0) Die("connect");
  pair.b = UniqueFd(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!pair.b) Die("accept4");
  return pair;
}

// producer -> [source.b | relay | sink.a] -> consumer
class Traffic {
 public:
  Traffic() : source_(Connected()), sink_(Connected()) {
    producer_ = std::thread([this] {
      const std::vector<char> data(kCopyBytes * 4, 'x');
      while (send(source_.a.get(), data.data(), data.size(), MSG_NOSIGNAL) > 0) {
      }
    });
    consumer_ = std::thread([this] {
      for (ssize_t n = 1; n > 0; consumed_ += static_cast<size_t>(n)) {
        n = recv(sink_.b.get(), nullptr, 1 << 20, MSG_TRUNC);
        if (n < 0) Die("recv at the consumer");
      }
    });
  }
  // Ends both streams; returns how many bytes reached the consumer.
  size_t Finish() {
    for (const UniqueFd* fd : {&source_.a, &source_.b}) shutdown(fd->get(), SHUT_RDWR);
    shutdown(sink_.a.get(), SHUT_WR);
    producer_.join();
    consumer_.join();
    return consumed_;
  }
  int source() const { return source_.b.get(); }
  int sink() const { return sink_.a.get(); }

 private:
  TcpPair source_, sink_;
  size_t consumed_ = 0;
  std::thread producer_, consumer_;
};

struct Pipe {
  explicit Pipe(int bytes) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) Die("pipe2");
    out = UniqueFd(ends[0]);
    in = UniqueFd(ends[1]);
    if (fcntl(in.get(), F_SETPIPE_SZ, bytes) < bytes) Die("F_SETPIPE_SZ");
  }
  UniqueFd out, in;
};

void SendAll(int fd, const char* data, size_t length) {
  while (length > 0) {
    const ssize_t n = send(fd, data, length, MSG_NOSIGNAL);
    if (n <= 0) Die("send");
    data += n;
    length -= static_cast<size_t>(n);
  }
}

// The engines: each moves some bytes and returns how many.

class PeekSendTruncate {
 public:
  size_t Move(int source, int sink) {
    const ssize_t seen = recv(source, buffer_.data(), buffer_.size(), MSG_PEEK);
    if (seen <= 0) Die("recv");
    SendAll(sink, buffer_.data(), static_cast<size_t>(seen));
    if (recv(source, nullptr, static_cast<size_t>(seen), MSG_TRUNC) != seen) Die("recv(MSG_TRUNC)");
    return static_cast<size_t>(seen);
  }

 private:
  std::vector<char> buffer_ = std::vector<char>(kCopyBytes);
};

class ReceiveSend {
 public:
  size_t Move(int source, int sink) {
    const ssize_t n = recv(source, buffer_.data(), buffer_.size(), 0);
    if (n <= 0) Die("recv");
    SendAll(sink, buffer_.data(), static_cast<size_t>(n));
    return static_cast<size_t>(n);
  }

 private:
  std::vector<char> buffer_ = std::vector<char>(kCopyBytes);
};

template <int kPipeBytes>
class SpliceCall {
 public:
  size_t Move(int source, int sink) {
    const ssize_t n = splice(source, nullptr, pipe_.in.get(), nullptr, kPipeBytes, SPLICE_F_MOVE);
    if (n <= 0) Die("splice in");
    for (ssize_t left = n; left > 0;) {
      const ssize_t m =
          splice(pipe_.out.get(), nullptr, sink, nullptr, static_cast<size_t>(left), SPLICE_F_MOVE);
      if (m <= 0) Die("splice out");
      left -= m;
    }
    return static_cast<size_t>(n);
  }

 private:
  Pipe pipe_{kPipeBytes};
};

// Two linked requests. The link breaks when the first moves less than it was
// asked for; the rest is then moved by requests of its own.
class RingSplice {
 public:
  RingSplice() {
    if (io_uring_queue_init(8, &ring_, IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN) < 0)
      Die("io_uring");
  }
  ~RingSplice() { io_uring_queue_exit(&ring_); }

  size_t Move(int source, int sink) {
    Queue(source, pipe_.in.get(), kPipeBytes, IOSQE_IO_LINK, 0);
    Queue(pipe_.out.get(), sink, kPipeBytes, 0, 1);
    int result[2] = {};
    Wait(2, result);
    if (result[0] <= 0) Die("splice in");
    for (int left = result[0] - (result[1] > 0 ? result[1] : 0); left > 0; left -= result[1]) {
      Queue(pipe_.out.get(), sink, static_cast<unsigned>(left), 0, 1);
      Wait(1, result);
      if (result[1] <= 0) Die("splice out");
    }
    return static_cast<size_t>(result[0]);
  }

 private:
  static constexpr int kPipeBytes = 1 << 20;

  void Queue(int from, int to, unsigned bytes, unsigned flags, uint64_t slot) {
    io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
    io_uring_prep_splice(sqe, from, -1, to, -1, bytes, SPLICE_F_MOVE);
    sqe->flags |= static_cast<uint8_t>(flags);
    io_uring_sqe_set_data64(sqe, slot);
  }
  void Wait(unsigned count, int (&result)[2]) {
    io_uring_submit_and_wait(&ring_, count);
    for (io_uring_cqe* cqe = nullptr; count > 0; --count) {
      if (io_uring_wait_cqe(&ring_, &cqe) < 0) Die("io_uring_wait_cqe");
      result[cqe->user_data] = cqe->res;
      io_uring_cqe_seen(&ring_, cqe);
    }
  }

  io_uring ring_{};
  Pipe pipe_{kPipeBytes};
};

double Seconds(clockid_t clock) {
  timespec t{};
  clock_gettime(clock, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

template <typename Engine>
void BM_Relay(benchmark::State& state) {
  Traffic traffic;
  Engine engine;
  const double thread_before = Seconds(CLOCK_THREAD_CPUTIME_ID);
  const double process_before = Seconds(CLOCK_PROCESS_CPUTIME_ID);
  size_t moved = 0;
  for ([[maybe_unused]] auto _ : state) {
    for (size_t n = 0; n < kBytesPerIteration;) {
      const size_t m = engine.Move(traffic.source(), traffic.sink());
      n += m;
      moved += m;
    }
  }
  const double thread_used = Seconds(CLOCK_THREAD_CPUTIME_ID) - thread_before;
  const double process_used = Seconds(CLOCK_PROCESS_CPUTIME_ID) - process_before;
  if (traffic.Finish() != moved) state.SkipWithError("bytes were lost or doubled");
  const double gigabytes = static_cast<double>(moved) / 1e9;
  state.SetBytesProcessed(static_cast<int64_t>(moved));
  state.counters["relay_cpu_s_per_GB"] = thread_used / gigabytes;
  state.counters["cpu_s_per_GB"] = process_used / gigabytes;
}

BENCHMARK(BM_Relay<PeekSendTruncate>)->UseRealTime();
BENCHMARK(BM_Relay<ReceiveSend>)->UseRealTime();
BENCHMARK(BM_Relay<SpliceCall<(1 << 20)>>)->UseRealTime();
BENCHMARK(BM_Relay<SpliceCall<(64 << 10)>>)->UseRealTime();
BENCHMARK(BM_Relay<RingSplice>)->UseRealTime();

}  // namespace
}  // namespace tpx

BENCHMARK_MAIN();
