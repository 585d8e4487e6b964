// SPDX-License-Identifier: Apache-2.0
// T1: how connections end at each length around the switch from copying to
// pipes. "near" is the side that acts, "far" the other.
#include <gtest/gtest.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tpx/data/pump.h"
#include "tpx/sys/socket.h"
#include "unit/data/gateway_lab.h"

namespace tpx::data {
namespace {

constexpr size_t kSwitch = Pump::kBulkBytes;
constexpr size_t kAround = 256;       // each length so far from the switch
constexpr size_t kClose = 16;         // ... in every run of lengths
constexpr size_t kCoarseStep = 1499;  // and some up to twice the switch; prime: no power of two is favoured
constexpr size_t kBatch = 64;         // sessions at a time, so that waits are shared

// Of the lengths around the switch those close to it and one in `step`.
std::vector<size_t> Lengths(size_t step) {
  const size_t thin = std::max<size_t>(1, 100 / std::max<size_t>(1, Scaled(100)));
  std::vector<size_t> lengths = {2 * kSwitch - 1, 2 * kSwitch};
  for (size_t n = 0; n < 2 * kSwitch; n += kCoarseStep * thin) lengths.push_back(n);
  for (size_t n = kSwitch - kAround; n <= kSwitch + kAround; ++n) {
    const size_t distance = n > kSwitch ? n - kSwitch : kSwitch - n;
    if (distance <= kClose / thin || distance % (step * thin) == 0) lengths.push_back(n);
  }
  return lengths;
}

sem_t held, release;

// A signal handler that keeps its thread.
void HoldThread(int) {
  const int saved = errno;
  sem_post(&held);
  while (sem_wait(&release) != 0) {
  }
  errno = saved;
}

class RelaySwitch : public WorkerTest {
 protected:
  enum class Meeting {
    kFlowing,  // the relay works while the near side sends: any split of the bytes
    kWaiting,  // everything, with what ends it, is there before the relay looks
  };
  struct Flow {
    UniqueFd near, far;
    size_t length = 0;
  };
  using Step = std::function<void(Flow&)>;
  struct Script {
    std::vector<Step> act;  // of the near sides, one step after the other
    Step check;
    bool all_arrives = false;
    bool is_greeted = false;  // the relay has been at work, by a byte the other way
  };

  static void SetUpTestSuite() {
    WorkerTest::SetUpTestSuite();
    if (!lab_) return;
    // Buffers that hold every length whole, and ports for all of them.
    for (const NetNs* ns : {&lab_->client, &lab_->gateway, &lab_->server}) {
      ns->Sh(
          "sysctl -qw net.ipv4.tcp_rmem='4096 1048576 6291456' net.ipv4.tcp_wmem='4096 1048576 4194304' "
          "net.ipv4.ip_local_port_range='1024 65535' net.ipv4.tcp_tw_reuse=1");
    }
    sem_init(&held, 0, 0);
    sem_init(&release, 0, 0);
    struct sigaction action {};
    action.sa_handler = HoldThread;
    sigaction(SIGUSR1, &action, nullptr);
  }

  void Hold() {
    ASSERT_EQ(pthread_kill(worker_thread_.load(), SIGUSR1), 0);
    while (sem_wait(&held) != 0) {
    }
  }

  std::vector<Flow> OpenBatch(const std::vector<size_t>& lengths, bool server_acts) {
    std::vector<Flow> flows;
    sockaddr_storage to{};
    const socklen_t to_length = Server().ToNativeSockaddr(to);
    lab_->client.Do([&] {  // once for all of them: it makes a thread
      for (size_t length : lengths) {
        UniqueFd client(socket(to.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
        const timeval limit{.tv_sec = 20, .tv_usec = 0};
        for (int option : {SO_RCVTIMEO, SO_SNDTIMEO})
          setsockopt(client.get(), SOL_SOCKET, option, &limit, sizeof(limit));
        ASSERT_EQ(connect(client.get(), reinterpret_cast<sockaddr*>(&to), to_length), 0) << strerror(errno);
        UniqueFd server = Accept(listener_);
        ASSERT_TRUE(server) << strerror(errno);
        if (server_acts) std::swap(client, server);
        flows.push_back({std::move(client), std::move(server), length});
      }
    });
    return flows;
  }

  void PlayBatch(const std::vector<size_t>& lengths, bool server_acts, Meeting meeting,
                 const Script& script) {
    std::vector<Flow> flows = OpenBatch(lengths, server_acts);
    ASSERT_EQ(flows.size(), lengths.size());
    for (Flow& flow : flows) {
      if (!script.is_greeted) break;
      ASSERT_TRUE(SendPattern(flow.far.get(), 1) && ReadPattern(flow.near.get(), 1));
    }
    const uint64_t before = Count(TPX_C_BYTES_SPLICED);
    uint64_t spliced = 0;
    if (meeting == Meeting::kWaiting) Hold();
    for (const Step& step : script.act) {
      for (Flow& flow : flows) step(flow);
    }
    if (meeting == Meeting::kWaiting) sem_post(&release);
    for (Flow& flow : flows) {
      SCOPED_TRACE(testing::Message() << flow.length << " bytes, " << (server_acts ? "server" : "client")
                                      << " acts, " << (meeting == Meeting::kWaiting ? "waiting" : "flowing"));
      script.check(flow);
      if (HasFailure()) return;  // rather than wait for each of them
      if (options_.max_pipes > 0 && flow.length > kSwitch) spliced += flow.length - kSwitch;
    }
    if (meeting == Meeting::kWaiting && script.all_arrives) {
      EXPECT_TRUE(CountBecomes(TPX_C_BYTES_SPLICED, before + spliced)) << "the switch is elsewhere";
    }
  }

  void PlayAll(const Script& script) {
    for (uint32_t pipes : {16u, 0u}) {
      SCOPED_TRACE(testing::Message() << pipes << " pipes");
      StopWorker();
      slot_ = {};
      options_.max_pipes = pipes;
      StartWorker();
      size_t sessions = 0;
      for (Meeting meeting : {Meeting::kFlowing, Meeting::kWaiting}) {
        const std::vector<size_t> lengths = Lengths(meeting == Meeting::kWaiting && pipes > 0 ? 1 : 4);
        for (bool server_acts : {false, true}) {
          for (auto first = lengths.begin(); first != lengths.end() && !HasFailure();) {
            const auto end = first + std::min<ptrdiff_t>(kBatch, lengths.end() - first);
            PlayBatch({first, end}, server_acts, meeting, script);
            first = end;
          }
          sessions += lengths.size();
        }
      }
      EXPECT_TRUE(CountBecomes(TPX_C_SESSIONS, 0));
      EXPECT_TRUE(HasFailure() || Count(TPX_C_SESSIONS_TOTAL) == sessions);
    }
  }

  // Until everything sent has reached the relay's socket: a reset forgets what has not.
  void Leave(Flow& flow) {
    const auto acknowledged = [&] { return sys::UnacknowledgedBytes(flow.near.get()) == 0; };
    for (int i = 0; i < 20'000 && !acknowledged(); ++i)
      std::this_thread::sleep_for(std::chrono::microseconds(500));
    EXPECT_TRUE(acknowledged());
  }
};
INSTANTIATE_TEST_SUITE_P(Families, RelaySwitch, testing::ValuesIn(kFamilies), FamilyName);

TEST_P(RelaySwitch, T1PassesAFinOnBehindEachLength) {
  PlayAll({.act = {[](Flow& f) {
             EXPECT_TRUE(SendPattern(f.near.get(), f.length));
             f.near.Reset();
           }},
           .check =
               [](Flow& f) {
                 size_t got = 0;
                 EXPECT_EQ(ReadToEnd(f.far.get(), &got), 0);
                 EXPECT_EQ(got, f.length);
                 f.far.Reset();
               },
           .all_arrives = true});
  EXPECT_EQ(Count(TPX_C_CLOSED_CLEAN), Count(TPX_C_SESSIONS_TOTAL));
}

TEST_P(RelaySwitch, T1AnswersAHalfCloseBehindEachLength) {
  PlayAll({
      .act = {[](Flow& f) {
        EXPECT_TRUE(SendPattern(f.near.get(), f.length));
        shutdown(f.near.get(), SHUT_WR);
      }},
      .check =
          [](Flow& f) {
            size_t got = 0, back = 0;
            EXPECT_EQ(ReadToEnd(f.far.get(), &got), 0);
            EXPECT_EQ(got, f.length);
            EXPECT_TRUE(SendPattern(f.far.get(), f.length));
            f.far.Reset();
            EXPECT_EQ(ReadToEnd(f.near.get(), &back), 0);
            EXPECT_EQ(back, f.length);
          },
  });
  EXPECT_EQ(Count(TPX_C_CLOSED_CLEAN), Count(TPX_C_SESSIONS_TOTAL));
}

TEST_P(RelaySwitch, T1PassesAResetOnBehindEachLength) {
  PlayAll({.act = {[](Flow& f) { EXPECT_TRUE(SendPattern(f.near.get(), f.length)); },
                   [this](Flow& f) {
                     Leave(f);
                     ResetOnClose(f.near.get());
                     f.near.Reset();
                   }},
           .check =
               [](Flow& f) {
                 size_t got = 0;
                 EXPECT_EQ(ReadToEnd(f.far.get(), &got), -ECONNRESET);
                 EXPECT_EQ(got, f.length);
               },
           .all_arrives = true,
           .is_greeted = true});
  EXPECT_EQ(Resets(), Count(TPX_C_SESSIONS_TOTAL));
}

TEST_P(RelaySwitch, T1PassesAResetOnThatComesWithEachLength) {
  PlayAll({
      .act = {[](Flow& f) {
        EXPECT_TRUE(SendPattern(f.near.get(), f.length));
        ResetOnClose(f.near.get());
        f.near.Reset();
      }},
      .check =
          [](Flow& f) {
            size_t got = 0;
            EXPECT_EQ(ReadToEnd(f.far.get(), &got), -ECONNRESET) << "or bytes out of order";
            EXPECT_LE(got, f.length);
          },
  });
  EXPECT_EQ(Resets(), Count(TPX_C_SESSIONS_TOTAL));
}

}  // namespace
}  // namespace tpx::data
