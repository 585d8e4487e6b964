// SPDX-License-Identifier: Apache-2.0
// Which worker a client's endpoint goes to.
#include <netinet/in.h>
#include <unistd.h>

#include <array>
#include <ctime>

#include "support/packet_fixture.h"

namespace tpx::test {
namespace {

class Affinity : public DatagramTest {
 protected:
  static constexpr uint16_t kAuto = kProxied, kStack = kProxiedClosed;

  void SetUp() override {
    DatagramTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    policy::Rule forwarded = RuleFor({kAuto}, TPX_ACTION_PROXY, TPX_FAIL_OPEN, {kUdp});
    forwarded.forward = TPX_FORWARD_AUTO;
    runner().Publish(PolicyOf({forwarded, RuleFor({kStack}, TPX_ACTION_PROXY, TPX_FAIL_OPEN, {kUdp})}));
    StartWorkers(2);
  }

  void StartWorkers(uint32_t n) {
    runner().StartWorkers(n);
    n_ = n;
  }

  // A port of the client that is `own`'s by its hash; each time another one.
  uint16_t PortOf(uint32_t own) {
    while (true) {
      const Endpoint client = Client(++port_);
      if ((tpx_hash_of_end(&client.addr.raw, htons(client.port)) >> 32) % n_ == own) return port_;
    }
  }
  uint32_t WorkerOf(uint16_t sport, uint16_t port = kAuto) const {
    Lan(To(port, sport));
    const auto verdict = runner().Remembered(Flow(port, sport));
    EXPECT_TRUE(verdict.has_value());
    return verdict.has_value() ? verdict->worker : uint32_t{TPX_MAX_WORKERS};
  }
  uint32_t ElsewhereOf(uint16_t sport) const {
    Lan(Packet().Ip(f().client, f().other_server).Udp(sport, kAuto));
    return runner()
        .Remembered(FlowOf(Address(f().client), sport, Address(f().other_server), kAuto, kUdp))
        ->worker;
  }
  // As the worker does.
  void SetSessions(uint16_t sport, uint32_t worker, uint32_t sessions) const {
    __u64& word = runner().affinity(Client(sport)).word;
    word = tpx_affinity_word(worker, sessions, tpx_affinity_seen(word));
  }
  static void Rest(tpx_worker_rest first, tpx_worker_rest second) {
    runner().SetRest(0, first);
    runner().SetRest(1, second);
  }
  // A port that was given to worker 0 a moment ago, though 1 would get it now.
  uint16_t GivenPort() {
    Rest(TPX_WORKER_AWAKE, TPX_WORKER_AWAKE);
    const uint16_t port = PortOf(1);
    runner().affinity(Client(port)).word = tpx_affinity_word(0, 0, static_cast<uint32_t>(CoarseNs() >> 20));
    EXPECT_EQ(WorkerOf(port), 0U);
    return port;
  }

  // Of each two workers, by the clock that the programs go by.
  static uint32_t Turn() { return static_cast<uint32_t>(CoarseNs() >> 27 & 1); }
  static uint64_t CoarseNs() {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
  }
  // What becomes of new endpoints of `own` in the turns of both.
  std::array<uint32_t, 2> InBothTurns(uint32_t own, uint16_t port = kAuto) {
    constexpr uint32_t kUnseen = 77;
    std::array<uint32_t, 2> chosen = {kUnseen, kUnseen};
    for (int i = 0; i < 2000 && (chosen[0] == kUnseen || chosen[1] == kUnseen); ++i) {
      const uint32_t turn = Turn(), worker = WorkerOf(PortOf(own), port);
      if (Turn() == turn) chosen[turn] = worker;
      usleep(1000);
    }
    return chosen;
  }

 private:
  uint32_t n_ = 0;
  uint16_t port_ = 20'000;
};
TPX_BOTH_FAMILIES(Affinity);

using Turns = std::array<uint32_t, 2>;
constexpr Turns kByTurns = {0, 1};
constexpr Turns Always(uint32_t worker) { return {worker, worker}; }

TEST_P(Affinity, TheOneWhoseTurnItIsTakesThoseOfTheOtherWhoSleeps) {
  Rest(TPX_WORKER_ASLEEP, TPX_WORKER_ASLEEP);
  for (uint32_t own : {0, 1}) EXPECT_EQ(InBothTurns(own), kByTurns) << own;
  Rest(TPX_WORKER_ASLEEP, TPX_WORKER_AWAKE);
  EXPECT_EQ(InBothTurns(0), kByTurns);
}

TEST_P(Affinity, WhoIsAwakeKeepsItsOwn) {
  for (auto rest : {TPX_WORKER_AWAKE, TPX_WORKER_BUSY}) {
    Rest(rest, rest);
    for (uint32_t own : {0, 1}) EXPECT_EQ(InBothTurns(own), Always(own));
  }
}

TEST_P(Affinity, ABusyWorkerGetsNothingMore) {
  Rest(TPX_WORKER_BUSY, TPX_WORKER_ASLEEP);
  EXPECT_EQ(InBothTurns(1), Always(1));
  Rest(TPX_WORKER_ASLEEP, TPX_WORKER_BUSY);
  EXPECT_EQ(InBothTurns(0), Always(0));
}

TEST_P(Affinity, WhoHasManyMoreSessionsGetsNoneOfTheOthers) {
  runner().SetUdpSessions(0, 1600 + 100 + 16);
  runner().SetUdpSessions(1, 1600);
  EXPECT_EQ(InBothTurns(1), kByTurns);
  runner().SetUdpSessions(0, 1600 + 100 + 17);
  EXPECT_EQ(InBothTurns(1), Always(1));
  EXPECT_EQ(InBothTurns(0), kByTurns);
}

TEST_P(Affinity, WhatWorkersRelayThemselvesIsSpread) {
  for (uint32_t own : {0, 1}) EXPECT_EQ(InBothTurns(own, kStack), Always(own));
  runner().control().watchers = 1;
  for (uint32_t own : {0, 1}) EXPECT_EQ(InBothTurns(own), Always(own));
}

TEST_P(Affinity, WorkersBelongTogetherByTwos) {
  StartWorkers(7);
  for (uint32_t own = 0; own < 6; ++own) {
    const uint32_t first = own & ~1U;
    EXPECT_EQ(InBothTurns(own), (Turns{first, first + 1}));
  }
  EXPECT_EQ(InBothTurns(6), Always(6));
}

TEST_P(Affinity, WhoDoesNotServeIsPassedOver) {
  runner().SetState(0, TPX_WORKER_DRAINING);
  EXPECT_EQ(InBothTurns(1), Always(1));
  runner().SetState(0, TPX_WORKER_SERVING);
  runner().EndLease(0);
  EXPECT_EQ(InBothTurns(1), Always(1));
}

// Its session may not be there yet, nor the datagram at the worker.
TEST_P(Affinity, TheChoiceHoldsForAMoment) {
  const uint16_t port = GivenPort();
  runner().affinity(Client(port)).word += uint64_t{500} << 32;  // for machines that stall
  EXPECT_EQ(ElsewhereOf(port), 0U);
  EXPECT_EQ(runner().Lookup(Flow(kStack, port)).listener / TPX_LISTENER_KINDS, 0) << "without tc";
}

// Another CPU has seen the tick that comes.
TEST_P(Affinity, AChoiceOfALaterTickHoldsToo) {
  const uint16_t port = GivenPort();
  runner().affinity(Client(port)).word += uint64_t{100} << 32;
  EXPECT_EQ(ElsewhereOf(port), 0U);
}

TEST_P(Affinity, AnEndpointStaysWhereItHasSessions) {
  const uint16_t port = GivenPort();
  SetSessions(port, 0, 1);
  runner().AgeAffinities();
  EXPECT_EQ(ElsewhereOf(port), 0U);
  EXPECT_EQ(WorkerOf(port, kStack), 0U);
}

TEST_P(Affinity, WithoutSessionsItIsChosenAnew) {
  const uint16_t port = GivenPort();
  runner().AgeAffinities();
  EXPECT_EQ(ElsewhereOf(port), 1U);
}

// Else the same endpoint would have an upstream port with each of them.
TEST_P(Affinity, AKnownFlowFollowsItsEndpoint) {
  const uint16_t port = GivenPort();
  SetSessions(port, 1, 1);  // another flow's, after all others had ended
  EXPECT_EQ(WorkerOf(port), 1U);
  EXPECT_EQ(runner().Lookup(Flow(kAuto, port)).listener / TPX_LISTENER_KINDS, 1);
}

TEST_P(Affinity, AKnownFlowHoldsItsWorkerForTheOthers) {
  const uint16_t port = GivenPort();
  for (int i = 0; i < 3; ++i) {
    runner().AgeAffinities();
    EXPECT_EQ(WorkerOf(port), 0U);
  }
  EXPECT_EQ(ElsewhereOf(port), 0U);
}

TEST_P(Affinity, AKnownFlowDoesNotFollowToWhoIsGone) {
  const uint16_t port = GivenPort();
  SetSessions(port, 1, 1);
  runner().EndLease(1);
  EXPECT_EQ(WorkerOf(port), 0U);
  EXPECT_EQ(ElsewhereOf(port), 0U);
}

TEST_P(Affinity, ANewFlowIsNotedForTheOthers) {
  for (uint16_t to : {kAuto, kStack}) {
    const uint16_t port = PortOf(1);
    const uint32_t worker = WorkerOf(port, to);
    const uint64_t word = runner().affinity(Client(port)).word;
    EXPECT_EQ(tpx_affinity_worker(word), worker);
    EXPECT_EQ(tpx_affinity_sessions(word), 0U);
    EXPECT_NE(tpx_affinity_seen(word), 0U);
  }
}

TEST_P(Affinity, OnlyWhatGoesToAWorkerIsNoted) {
  const uint16_t port = PortOf(1);
  runner().Lookup(Flow(kAuto, port));
  Lan(To(kBypassed, port));
  runner().SetState(0, TPX_WORKER_DRAINING);
  runner().SetState(1, TPX_WORKER_DRAINING);
  Lan(To(kAuto, port));
  EXPECT_EQ(runner().affinity(Client(port)).word, 0U);
}

}  // namespace
}  // namespace tpx::test
