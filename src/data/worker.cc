// SPDX-License-Identifier: Apache-2.0
#include "tpx/data/worker.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "tpx/base/clock.h"
#include "tpx/base/log.h"
#include "tpx/base/status.h"
#include "tpx/base/strings.h"
#include "tpx/data/acceptor.h"
#include "tpx/data/admission.h"
#include "tpx/data/connector.h"
#include "tpx/data/gathering.h"
#include "tpx/data/relay.h"
#include "tpx/data/shared_slot.h"
#include "tpx/data/udp_relay.h"
#include "tpx/data/work_share.h"
#include "tpx/io/ring.h"

namespace tpx::data {
namespace {

constexpr uint32_t kSubmissions = 4096;  // more than one turn can queue
constexpr uint32_t kCompletions = 16384;
constexpr uint32_t kTurnCompletions = 1024;
constexpr uint64_t kNsPerMs = 1'000'000;
constexpr uint64_t kFinishMs = 1000;       // for the last completions at the end
constexpr uint64_t kDrainAtLeastMs = 150;  // for handshakes that were under way

// What a port that is free in TCP may be in UDP; another one is tried where any will do.
const absl::StatusCode kTaken = absl::ErrnoToStatusCode(EADDRINUSE);
constexpr int kPortTries = 100;

// Token kinds beside those of sessions.
constexpr uint8_t kListenersKind = 16, kWakeKind = 17;

enum class Command : int { kRun, kDrain, kStop };

void BlockSigpipe() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGPIPE);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

class RingWorker final : public Worker, private AcceptSink {
 public:
  RingWorker(const WorkerOptions& options, std::unique_ptr<io::Ring> ring, UniqueFd wake)
      : options_(options),
        slot_(options.shared),
        descriptors_(options.max_descriptors),
        ring_(std::move(ring)),
        wake_(std::move(wake)) {}

  absl::Status Init();

  int listener_fd(tpx_listener kind) const override {
    return kind < TPX_LISTENER_UDP_MASQUERADE ? acceptor_->listener_fd(kind) : udp_->listener_fd(kind);
  }
  uint16_t listen_port() const override { return acceptor_->port(); }
  absl::Status Begin() override;
  void Run() override;
  void Drain() override { Send(Command::kDrain); }
  void Stop() override { Send(Command::kStop); }

 private:
  absl::Status OpenListeners();  // of TCP and UDP at one port
  void Send(Command command);
  bool Turn();  // false: the last one
  void Finish();
  bool Obey();
  bool Wait(uint64_t timeout_ns);
  uint64_t WaitTime() const;
  void SayRest(tpx_worker_rest rest) {
    slot_.SetRest(work_.busy() || udp_->is_short(now_ms()) ? TPX_WORKER_BUSY : rest);
  }
  void ReadClock() { now_ns_ = MonotonicNs(); }
  uint64_t now_ms() const { return now_ns_ / kNsPerMs; }
  void RenewLease() { slot_.RenewLease(now_ns_ + options_.lease_ms * kNsPerMs); }
  void Watch(int fd, uint8_t kind) { ring_->PollMultishot(fd, POLLIN, io::Token{.kind = kind}.Pack()); }
  void OnCompletion(const io::Ring::Completion& completion);
  bool OnAccepted(UniqueFd client, const Endpoint& address, tpx_listener listener) override;

  const WorkerOptions options_;
  SharedSlot slot_;
  Descriptors descriptors_;
  std::unique_ptr<io::Ring> ring_;
  UniqueFd wake_;  // eventfd by which other threads end a wait
  std::unique_ptr<Acceptor> acceptor_;
  std::unique_ptr<Admission> admission_;
  std::unique_ptr<Connector> connector_;
  std::unique_ptr<Relay> relay_;
  std::unique_ptr<UdpRelay> udp_;
  std::atomic<Command> command_{Command::kRun};
  WorkShare work_;
  uint64_t now_ns_ = 0;
  uint64_t drain_began_ms_ = 0;
  bool draining_ = false;
  bool more_ready_ = false;
};

absl::Status RingWorker::Init() {
  absl::Status status = OpenListeners();
  for (int tries = 1; status.code() == kTaken && options_.listen_port == 0 && tries < kPortTries; ++tries) {
    status = OpenListeners();
  }
  if (!status.ok()) return status;
  admission_ = std::make_unique<Admission>(*acceptor_, slot_, descriptors_, options_.max_sessions);
  connector_ = std::make_unique<Connector>(options_, acceptor_->port(), slot_);
  relay_ = std::make_unique<Relay>(options_, *ring_, slot_, descriptors_);
  return absl::OkStatus();
}

absl::Status RingWorker::OpenListeners() {
  const sys::ListenerOptions listener{.port = options_.listen_port,
                                      .mark = options_.steer_mark,
                                      .keepalive = {.idle_s = options_.keepalive_idle_s,
                                                    .interval_s = options_.keepalive_interval_s,
                                                    .count = options_.keepalive_count}};
  TPX_ASSIGN_OR_RETURN(acceptor_, Acceptor::Create(listener, slot_));
  TPX_ASSIGN_OR_RETURN(udp_, UdpRelay::Create(options_, acceptor_->port(), *ring_, slot_, descriptors_));
  return absl::OkStatus();
}

void RingWorker::Send(Command command) {
  Command current = command_.load();
  while (current < command && !command_.compare_exchange_weak(current, command)) {
  }
  const uint64_t one = 1;
  // Fails only when the counter is full, and then the loop wakes up anyway.
  [[maybe_unused]] const ssize_t n = write(wake_.get(), &one, sizeof(one));
}

absl::Status RingWorker::Begin() {
  BlockSigpipe();
  if (absl::Status status = ring_->Enable(); !status.ok()) {
    return Annotate(status, StrCat("worker ", options_.id));
  }
  Watch(acceptor_->poll_fd(), kListenersKind);
  Watch(wake_.get(), kWakeKind);
  udp_->Start();
  slot_.Claim();
  admission_->Start();
  ReadClock();
  RenewLease();
  return absl::OkStatus();
}

void RingWorker::Run() {
  while (Turn()) {
  }
  Finish();
}

bool RingWorker::Turn() {
  if (!Wait(WaitTime())) return false;
  more_ready_ = relay_->RunReady(now_ms());
  relay_->RunTimeouts(now_ms());
  admission_->Run(relay_->open(), now_ms(), *this);
  return Obey();
}

// Waits for completions, renews the lease and takes the completions in; false:
// the ring has failed.
bool RingWorker::Wait(uint64_t timeout_ns) {
  const bool gathers = udp_->gathers() && timeout_ns > Gathering::kTimeNs;
  if (timeout_ns != 0) SayRest(TPX_WORKER_ASLEEP);
  const int result = gathers ? ring_->SubmitAndWait(Gathering::kTimeNs, Gathering::kCompletions)
                             : ring_->SubmitAndWait(timeout_ns);
  ReadClock();
  if (result < 0) {
    LogError("worker ", options_.id, " ends: io_uring_enter: ", ErrnoStatus(-result, "").message());
    return false;
  }
  RenewLease();
  if (work_.IsDue(now_ns_)) work_.Look(now_ns_, ThreadCpuNs());
  SayRest(TPX_WORKER_AWAKE);
  // Each completion may queue a request.
  const uint32_t room = std::min(kTurnCompletions, ring_->SubmissionSpace() / 2);
  ring_->Reap(room, [this](const io::Ring::Completion& c) { OnCompletion(c); });
  udp_->EndTurn(now_ms());  // before bulk: a datagram late is a datagram lost
  return true;
}

uint64_t RingWorker::WaitTime() const {
  if (more_ready_ || !admission_->idle()) return 0;
  uint64_t until_ms = std::min({relay_->NextTimeout(), admission_->NextTime(), udp_->NextTimeout()});
  if (draining_) {
    const uint64_t end = relay_->open() == 0 ? kDrainAtLeastMs : options_.drain_ms;
    until_ms = std::min(until_ms, drain_began_ms_ + end);
  }
  const uint64_t lease_ns = options_.lease_ms * kNsPerMs / 4;
  if (until_ms > (now_ns_ + lease_ns) / kNsPerMs) return lease_ns;
  return until_ms * kNsPerMs > now_ns_ ? until_ms * kNsPerMs - now_ns_ : 0;
}

void RingWorker::OnCompletion(const io::Ring::Completion& completion) {
  const io::Token token = io::Token::Unpack(completion.token);
  switch (token.kind) {
    case kClient:
    case kServer:
      return relay_->OnCompletion(token, completion);
    case kListenersKind:
      admission_->OnWaiting();
      if (!completion.more) Watch(acceptor_->poll_fd(), kListenersKind);
      return;
    case kWakeKind: {
      uint64_t count = 0;
      [[maybe_unused]] const ssize_t n = read(wake_.get(), &count, sizeof(count));
      if (!completion.more) Watch(wake_.get(), kWakeKind);
      return;
    }
    case UdpRelay::kListenerKind:
    case UdpRelay::kUpstreamKind:
      return udp_->OnCompletion(token, completion, now_ms());
    default:
      return;
  }
}

bool RingWorker::OnAccepted(UniqueFd client, const Endpoint& address, tpx_listener listener) {
  Connector::Result result = connector_->Dial(client.get(), address, listener);
  if (!result.server) return !result.shortage;
  relay_->Start(std::move(client), std::move(result.server), now_ms());
  return true;
}

// Does what other threads asked for; false: the loop ends.
bool RingWorker::Obey() {
  const Command command = command_.load(std::memory_order_relaxed);
  if (command == Command::kRun) return true;
  if (command == Command::kStop) return false;
  if (!draining_) {
    draining_ = true;
    drain_began_ms_ = now_ms();
    admission_->BeginDraining();
  }
  const uint64_t elapsed_ms = now_ms() - drain_began_ms_;
  const bool done = relay_->open() == 0 && admission_->idle() && !udp_->busy(now_ms());
  if (done && elapsed_ms >= kDrainAtLeastMs) return false;
  return elapsed_ms < options_.drain_ms;
}

void RingWorker::Finish() {
  admission_->BeginDraining();
  acceptor_->Shutdown();
  relay_->ResetAll(TPX_C_CLOSED_DRAIN);
  udp_->CloseAll();
  // Peers learn of it when the polls of their sockets have ended.
  const uint64_t give_up_ns = now_ns_ + kFinishMs * kNsPerMs;
  while ((relay_->live() > 0 || !udp_->quiet()) && now_ns_ < give_up_ns) {
    if (!Wait(kNsPerMs)) break;
    relay_->RunReady(now_ms());
  }
  slot_.Release();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Worker>> Worker::Create(const WorkerOptions& options) {
  if (options.shared == nullptr || options.decisions == nullptr || options.translations == nullptr ||
      options.icmp_budget == nullptr || options.max_sessions == 0 || options.max_udp_sessions == 0 ||
      options.max_udp_reply_sockets == 0 || options.lease_ms == 0) {
    return absl::InvalidArgumentError(
        "worker: slot, decisions, translations, budget, limits and lease_ms are needed");
  }
  TPX_ASSIGN_OR_RETURN(std::unique_ptr<io::Ring> ring, io::Ring::Create(kSubmissions, kCompletions));
  UniqueFd wake(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  if (!wake) return ErrnoStatus(errno, "eventfd");
  auto worker = std::make_unique<RingWorker>(options, std::move(ring), std::move(wake));
  TPX_RETURN_IF_ERROR(worker->Init());
  return worker;
}

}  // namespace tpx::data
