// SPDX-License-Identifier: Apache-2.0
// Who takes a new flow, and what happens to it when nobody can.
#include <netinet/in.h>

#include <chrono>
#include <set>
#include <thread>

#include "support/packet_fixture.h"

namespace tpx::test {
namespace {

class Workers : public FamilyTest {
 protected:
  // What each fail mode makes of a new flow.
  void ExpectDown() const {
    EXPECT_EQ(Lan(SynTo(kProxied)), Leaves(TPX_R_DOWN_OPEN));
    EXPECT_EQ(Lan(SynTo(kProxiedClosed)), Leaves(TPX_R_DOWN_CLOSED));
    EXPECT_EQ(Lan(SynTo(kProxiedReset)), Leaves(TPX_R_DOWN_RESET));
  }
  void ExpectBusy() const {
    EXPECT_EQ(Lan(SynTo(kProxied)), Leaves(TPX_R_BUSY_OPEN));
    EXPECT_EQ(Lan(SynTo(kProxiedClosed)), Leaves(TPX_R_BUSY_CLOSED));
    EXPECT_EQ(Lan(SynTo(kProxiedReset)), Leaves(TPX_R_BUSY_RESET));
  }
  void ExpectServed() const {
    EXPECT_EQ(Lan(SynTo(kProxied)), Leaves(TPX_R_RULE_PROXY));
    EXPECT_EQ(Lan(SynTo(kProxiedClosed)), Leaves(TPX_R_RULE_PROXY));
    EXPECT_EQ(Lan(SynTo(kProxiedReset)), Leaves(TPX_R_RULE_PROXY));
  }
  // The worker that a new flow from `sport` goes to, from the listener that sk_lookup chooses for it.
  static int WorkerOf(const Family& family, uint16_t sport) {
    Packet syn = Packet().Ip(family.client, family.server).Tcp(sport, kProxied).Syn();
    if (Lan(syn).reason != TPX_R_RULE_PROXY) return -1;
    tpx_flow flow = FlowOf(Address(family.client), sport, Address(family.server), kProxied);
    return runner().Lookup(flow).listener / TPX_LISTENER_KINDS;
  }
};
TPX_BOTH_FAMILIES(Workers);

TEST_P(Workers, ServeWhileTheirLeaseRuns) {
  ExpectServed();
  for (uint32_t worker : {0, 1}) runner().EndLease(worker);
  ExpectDown();
  runner().SetLease(1, 10'000);
  ExpectServed();
}

TEST_P(Workers, AreDownAsSoonAsTheirLeaseEnds) {
  for (uint32_t worker : {0, 1}) runner().SetLease(worker, 30);
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  ExpectDown();
}

TEST_P(Workers, AreDownWithoutAListener) {
  runner().CloseListeners(0);
  ExpectServed();
  runner().CloseListeners(1);
  ExpectDown();
}

TEST_P(Workers, AreDownWhereThereAreNone) {
  runner().control().n_workers = 0;
  ExpectDown();
  runner().control().n_workers = TPX_MAX_WORKERS + 1;  // nonsense
  ExpectDown();
}

TEST_P(Workers, AreDownWhereTheirSlotIsAbsent) {
  for (uint32_t worker : {0, 1}) runner().SetState(worker, TPX_WORKER_ABSENT);
  ExpectDown();
}

TEST_P(Workers, AreBusyWhenFullOrDraining) {
  runner().SetState(0, TPX_WORKER_FULL);
  ExpectServed();
  runner().SetState(1, TPX_WORKER_DRAINING);
  ExpectBusy();
  runner().EndLease(0);
  ExpectBusy();
  runner().EndLease(1);
  ExpectDown();
}

TEST_P(Workers, DoNotMatterToOtherActions) {
  runner().control().n_workers = 0;
  EXPECT_EQ(Lan(SynTo(kDropped)), Leaves(TPX_R_RULE_DROP));
  EXPECT_EQ(Lan(SynTo(kRejected)), Leaves(TPX_R_RULE_REJECT));
  EXPECT_EQ(Lan(SynTo(kBypassed)), Leaves(TPX_R_RULE_BYPASS));
}

TEST_P(Workers, ShareTheFlows) {
  runner().StartWorkers(4);
  int flows[4] = {};
  for (uint16_t i = 0; i < 400; ++i) {
    int worker = WorkerOf(f(), static_cast<uint16_t>(10'000 + i));
    ASSERT_TRUE(worker >= 0 && worker < 4);
    ++flows[worker];
  }
  for (int count : flows) EXPECT_GT(count, 50);
}

TEST_P(Workers, KeepTheirFlowsWhenAnotherIsDown) {
  runner().StartWorkers(4);
  std::map<uint16_t, int> before;
  for (uint16_t i = 0; i < 100; ++i) {
    auto port = static_cast<uint16_t>(10'000 + i);
    before[port] = WorkerOf(f(), port);
  }
  runner().SetState(2, TPX_WORKER_FULL);
  for (auto [port, worker] : before) {
    EXPECT_EQ(WorkerOf(f(), port), worker == 2 ? 3 : worker) << "the next one takes over";
  }
}

TEST_P(Workers, AreAllTriedOnce) {
  runner().StartWorkers(TPX_MAX_WORKERS);
  for (uint32_t worker = 0; worker < TPX_MAX_WORKERS; ++worker) {
    if (worker != 37) runner().EndLease(worker);
  }
  for (uint16_t i = 0; i < 70; ++i) EXPECT_EQ(WorkerOf(f(), static_cast<uint16_t>(10'000 + i)), 37);
}

}  // namespace
}  // namespace tpx::test
