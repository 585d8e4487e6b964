// SPDX-License-Identifier: Apache-2.0
// What a worker says of itself, and what it does at its limits and at its end.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>

#include <filesystem>
#include <thread>
#include <vector>

#include "unit/data/gateway_lab.h"

namespace tpx::data {
namespace {

using std::chrono::milliseconds;

class WorkerLimits : public WorkerTest {
 protected:
  bool Echoes(Pair& pair) {
    return SendPattern(pair.client.get(), 100) && ReadPattern(pair.server.get(), 100) &&
           SendPattern(pair.server.get(), 100) && ReadPattern(pair.client.get(), 100);
  }
  uint64_t LeaseMs() {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    const uint64_t now_ns =
        static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
    const uint64_t deadline = std::atomic_ref<__u64>(slot_.deadline_ns).load();
    return deadline > now_ns ? (deadline - now_ns) / 1'000'000 : 0;
  }
  static size_t OpenDescriptors() {
    size_t n = 0;
    for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) ++n;
    return n;
  }
};
// One family is enough: nothing here depends on addresses.
INSTANTIATE_TEST_SUITE_P(Families, WorkerLimits, testing::Values(kFamilies[1]), FamilyName);

TEST_P(WorkerLimits, RenewsItsLeaseAndEndsItWithTheLoop) {
  for (int i = 0; i < 15; ++i) {
    EXPECT_GT(LeaseMs(), 600u);
    EXPECT_LE(LeaseMs(), 1000u);
    std::this_thread::sleep_for(milliseconds(50));
  }
  EXPECT_EQ(slot_.pid, static_cast<uint32_t>(getpid()));
  StopWorker();
  EXPECT_EQ(slot_.deadline_ns, 0u);
  EXPECT_EQ(State(), TPX_WORKER_ABSENT);
}

TEST_P(WorkerLimits, LeavesTheSlotToItsSuccessor) {
  Pair pair = Open();
  std::atomic_ref<__u32>(slot_.pid).store(1);
  std::this_thread::sleep_for(milliseconds(600));
  std::atomic_ref<__u64>(slot_.deadline_ns).store(12345);
  const uint64_t total = Count(TPX_C_SESSIONS_TOTAL);
  EXPECT_TRUE(Echoes(pair));
  Pair other = Open();
  StopWorker();
  EXPECT_EQ(slot_.deadline_ns, 12345u);
  EXPECT_EQ(State(), TPX_WORKER_SERVING);
  EXPECT_EQ(Count(TPX_C_SESSIONS_TOTAL), total);
  slot_ = {};
}

TEST_P(WorkerLimits, KeepsNothingOfTwoThousandSessions) {
  const size_t before = OpenDescriptors();
  {
    std::vector<Pair> pairs;
    for (int i = 0; i < 2000; ++i) pairs.push_back(Open());
    EXPECT_TRUE(CountBecomes(TPX_C_SESSIONS, 2000));
    EXPECT_EQ(Count(TPX_C_PIPES), 0u);
    for (Pair& pair : pairs) shutdown(pair.client.get(), SHUT_WR), shutdown(pair.server.get(), SHUT_WR);
    EXPECT_TRUE(CountBecomes(TPX_C_CLOSED_CLEAN, 2000));
  }
  EXPECT_TRUE(CountBecomes(TPX_C_SESSIONS, 0));
  EXPECT_TRUE(Eventually([&] { return OpenDescriptors() <= before; }))
      << OpenDescriptors() << " > " << before;
}

TEST_P(WorkerLimits, DrainsUntilTheLastSessionHasEnded) {
  Pair pair = Open();
  worker_->Drain();
  worker_->Drain();
  EXPECT_TRUE(Eventually([&] { return State() == TPX_WORKER_DRAINING; }));
  std::this_thread::sleep_for(milliseconds(300));
  EXPECT_FALSE(finished_);
  EXPECT_TRUE(Echoes(pair));
  shutdown(pair.client.get(), SHUT_WR);
  shutdown(pair.server.get(), SHUT_WR);
  EXPECT_TRUE(Eventually([&] { return finished_.load(); }));
  EXPECT_EQ(Count(TPX_C_CLOSED_CLEAN), 1u);
  EXPECT_EQ(Count(TPX_C_CLOSED_DRAIN), 0u);
}

TEST_P(WorkerLimits, ResetsWhatIsLeftAfterTheDrainTime) {
  options_.drain_ms = 400;
  Restart();
  Pair pair = Open();
  worker_->Drain();
  EXPECT_EQ(End(pair.client), -ECONNRESET);
  EXPECT_EQ(End(pair.server), -ECONNRESET);
  EXPECT_EQ(Count(TPX_C_CLOSED_DRAIN), 1u);
  EXPECT_TRUE(Eventually([&] { return finished_.load(); }));
}

TEST_P(WorkerLimits, ResetsEverythingAtOnceWhenStopped) {
  std::vector<Pair> pairs;
  for (int i = 0; i < 100; ++i) pairs.push_back(Open());
  worker_->Stop();
  for (Pair& pair : pairs) {
    EXPECT_EQ(End(pair.client), -ECONNRESET);
    EXPECT_EQ(End(pair.server), -ECONNRESET);
  }
  EXPECT_TRUE(Eventually([&] { return finished_.load(); }));
}

TEST_P(WorkerLimits, TakesNoFlowWhileFullAndServesAgainWithRoom) {
  options_.max_sessions = 16;
  Restart();
  std::vector<Pair> pairs;
  for (int i = 0; i < 16; ++i) pairs.push_back(Open());
  EXPECT_TRUE(Eventually([&] { return State() == TPX_WORKER_FULL; }));
  UniqueFd queued = ConnectTo(lab_->client, Server());
  ASSERT_TRUE(queued) << "its handshake was under way";
  EXPECT_EQ(End(queued), -ECONNRESET) << "after a second without room";
  EXPECT_TRUE(CountBecomes(TPX_C_LIMIT_RESET, 1));
  EXPECT_EQ(Count(TPX_C_LIMIT_REACHED), 1u);
  EXPECT_EQ(State(), TPX_WORKER_FULL);
  UniqueFd patient = ConnectTo(lab_->client, Server());
  pairs.resize(10);
  EXPECT_TRUE(Eventually([&] { return State() == TPX_WORKER_SERVING; }));
  UniqueFd server = Accept(listener_);
  EXPECT_TRUE(server);
  EXPECT_TRUE(Echoes(pairs[0]));
}

TEST_P(WorkerLimits, StopsAcceptingWithoutSpinningWhenDescriptorsRunOut) {
  Pair pair = Open();
  std::vector<UniqueFd> clients;
  for (int i = 0; i < 8; ++i) clients.push_back(OpenSocket(lab_->client, Server()));
  UniqueFd lowest(dup(0));
  rlimit old{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &old), 0);
  const rlimit none{.rlim_cur = static_cast<rlim_t>(lowest.get()), .rlim_max = old.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  for (UniqueFd& client : clients) EXPECT_TRUE(Connect(client, Server()));
  EXPECT_TRUE(Eventually([&] { return Count(TPX_C_ACCEPT_ERRORS) > 0; }));
  std::this_thread::sleep_for(milliseconds(500));
  EXPECT_LT(Count(TPX_C_ACCEPT_ERRORS), 20u) << "tried every 100 ms";
  EXPECT_TRUE(Echoes(pair));
  for (UniqueFd& client : clients) EXPECT_EQ(End(client), -ECONNRESET);
  EXPECT_TRUE(CountBecomes(TPX_C_LIMIT_RESET, 8));
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &old), 0);
  EXPECT_TRUE(Eventually([&] { return State() == TPX_WORKER_SERVING; }));
  Pair after = Open();
  EXPECT_TRUE(Echoes(after));
}

// The listeners must be gone with the process: see acceptor.h.
TEST_P(WorkerLimits, IsGoneAtOnceWhenItsProcessIsKilled) {
  StopWorker();
  int port_pipe[2];
  ASSERT_EQ(pipe(port_pipe), 0);
  pid_t child = -1;
  lab_->gateway.Do([&] {
    child = fork();
    if (child != 0) return;
    auto worker = Worker::Create(options_);
    if (!worker.ok()) _exit(1);
    worker_ = *std::move(worker);
    Select(TPX_LISTENER_TCP_MASQUERADE);
    const uint16_t port = worker_->listen_port();
    if (write(port_pipe[1], &port, sizeof(port)) != sizeof(port)) _exit(1);
    if (worker_->Begin().ok()) worker_->Run();
    _exit(0);
  });
  close(port_pipe[1]);
  uint16_t port = 0;
  ASSERT_EQ(read(port_pipe[0], &port, sizeof(port)), 2);
  close(port_pipe[0]);
  ASSERT_NE(port, 0);
  const Endpoint at{.addr = IpAddr::Parse(GetParam().server).value(), .port = port};
  UniqueFd listener = ListenAt(lab_->server, at);
  UniqueFd client = ConnectTo(lab_->client, at);
  UniqueFd server = Accept(listener);
  ASSERT_TRUE(client && server);
  UniqueFd late = OpenSocket(lab_->client, at);
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  EXPECT_FALSE(Connect(late, at));
  EXPECT_EQ(errno, ECONNREFUSED);
  EXPECT_EQ(End(client), -ECONNRESET) << "a stream that is cut off must not end with FIN";
  EXPECT_EQ(End(server), -ECONNRESET);
}

}  // namespace
}  // namespace tpx::data
