// SPDX-License-Identifier: Apache-2.0
// Answers to the port of a session's socket, which tc sends on to the client without having been given the
// session.
#include <arpa/inet.h>
#include <bpf/bpf.h>

#include <array>
#include <atomic>
#include <cstring>
#include <string>
#include <thread>

#include "support/nat_fixture.h"
#include "support/scale.h"
#include "tpx_watchers.h"

namespace tpx::test {
namespace {

constexpr uint16_t kOtherPort = kClientPort + 1;

class Answer : public NatTest {
 protected:
  void SetUp() override {
    NatTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    Begin(Rule(TPX_FORWARD_AUTO));
    Attach(kIn);
    Attach(kOut);
    runner().control().watchers_s = NowSeconds();
    runner().Relay(NowSeconds());
    Announce();
  }
  void TearDown() override {
    if (!IsSkipped()) upstream() = {};
    NatTest::TearDown();
  }

  tpx_upstream& upstream() const { return runner().upstream(v4(), kOwnPort); }
  // As the worker would, with the one that the verdict names.
  void Announce() const {
    upstream().client = Address(far_client()).raw;
    upstream().client_port = htons(kClientPort);
    upstream().worker = runner().Remembered(UpFlow())->worker;
    upstream().turn |= 1;
  }
  // Once more, by another rule.
  void Restart(const policy::Rule& rule) const {
    Publish(rule);
    runner().ForgetFlows();
    EXPECT_EQ(Up(), Leaves(TPX_R_RULE_PROXY));
    Announce();
  }
  void Hear(const char* server, uint16_t port) const {
    upstream().server = Address(server).raw;
    upstream().server_port = htons(port);
  }

  void ExpectSent() const { ExpectDown(Answers(), AnswersTranslated()); }
  // To the worker.
  void ExpectLeft(uint32_t mark = 0) const { EXPECT_EQ(Down(mark), Leaves(TPX_R_OWN_ADDRESS, mark)); }
};
TPX_BOTH_FAMILIES(Answer);

TEST_P(Answer, ToTheClient) {
  const int before = upstream().answers;
  for (size_t size : {0, 1, 7, 500, 1350}) {
    ExpectDown(Answers().Payload(size), AnswersTranslated().Payload(size));
  }
  EXPECT_EQ(upstream().answers, before + 5);
  EXPECT_LT(static_cast<uint32_t>(MonotonicNs() / 1'000'000) - upstream().answered_ms, 1000u);
  EXPECT_EQ(Up(), Leaves(TPX_R_ESTABLISHED)) << "what the client sends is the worker's";
}

TEST_P(Answer, AChecksumIsNeverZero) {
  for (const Bytes& payload : {Balancing(Answers()), Balancing(AnswersTranslated())}) {
    ExpectDown(Answers().Payload(payload), AnswersTranslated().Payload(payload));
  }
  if (v4()) ExpectDown(Answers().NoChecksum(), AnswersTranslated().NoChecksum());
}

TEST_P(Answer, OnlyWhileNobodyWatches) {
  ExpectSent();
  runner().control().watchers = 1;
  ExpectLeft();
  runner().control().watchers = 0;
  ExpectSent();
  runner().control().watchers_s = NowSeconds() - TPX_WATCHERS_HOLD_S - 1;
  ExpectLeft();
}

TEST_P(Answer, OnlyWhereTheRuleLeavesItOpen) {
  for (tpx_forward forward : {TPX_FORWARD_STACK, TPX_FORWARD_FIB}) {
    Restart(Rule(forward));
    ExpectLeft();
  }
  Restart(Rule(TPX_FORWARD_AUTO));
  ExpectSent();
}

TEST_P(Answer, OnlyByDevicesThatAreLookedAt) {
  const uint32_t device = kIn;
  TPX_PCHECK(bpf_map_delete_elem(runner().map_fd("tpx_devices"), &device) == 0);
  ExpectLeft();
}

TEST_P(Answer, OnlyOfWhomTheClientAsked) {
  EXPECT_EQ(Down(Packet().Ip(no_neighbour(), own()).Udp(kServed, kOwnPort)), Leaves(TPX_R_OWN_ADDRESS));
  EXPECT_EQ(Down(Packet().Ip(far_server(), own()).Udp(kServed + 1, kOwnPort)), Leaves(TPX_R_OWN_ADDRESS));
  EXPECT_EQ(Down(Packet().Ip(far_server(), own()).Tcp(kServed, kOwnPort).Syn()), Leaves(TPX_R_OWN_ADDRESS));
  runner().ForgetFlows();
  ExpectLeft();
}

TEST_P(Answer, NotOfAFlowThatWasSilentForTooLong) {
  runner().control().udp_flow_s = 100;
  runner().AgeFlow(UpFlow(), 99);
  ExpectSent();
  runner().AgeFlow(UpFlow(), 102);
  ExpectLeft();
}

TEST_P(Answer, TheFlowStaysKnown) {
  runner().AgeFlow(UpFlow(), 100);
  const uint32_t before = runner().Remembered(UpFlow())->seen_s;
  ExpectSent();
  EXPECT_GT(runner().Remembered(UpFlow())->seen_s, before);
}

TEST_P(Answer, OnlyWhileTheWorkerLives) {
  const uint32_t worker = upstream().worker;
  runner().EndLease(worker);
  ExpectLeft();
  runner().SetLease(worker, 10'000);
  runner().SetState(worker, TPX_WORKER_ABSENT);
  ExpectLeft();
  runner().SetState(worker, TPX_WORKER_DRAINING);
  ExpectSent();
  upstream().worker ^= 1;
  ExpectLeft();
}

TEST_P(Answer, NobodysPort) {
  EXPECT_EQ(Down(Packet().Ip(far_server(), own()).Udp(kServed, kOwnPort + 1)), Leaves(TPX_R_OWN_ADDRESS));
  upstream().turn++;
  ExpectLeft();
  upstream().turn++;
  ExpectSent();
}

// The same port of the other family is another socket's.
TEST_P(Answer, OfItsFamily) {
  runner().upstream(!v4(), kOwnPort) = upstream();
  upstream().turn++;
  ExpectLeft();
  runner().upstream(!v4(), kOwnPort) = {};
}

TEST_P(Answer, OnlyToAnAddressOfTheGateway) {
  const Packet passing = Packet().Ip(far_server(), far_client()).Udp(kServed, kOwnPort);
  EXPECT_EQ(Down(passing), Leaves(TPX_R_WAN));
}

TEST_P(Answer, FromTheOutsideOnly) {
  runner().ComeInBy(kOut);
  EXPECT_EQ(runner().Run(Hook::kLan, FrameTo(kOutMac, Answers())), Leaves(TPX_R_OWN_ADDRESS));
}

// Elsewhere rp_filter may judge.
TEST_P(Answer, OnlyByTheDeviceOfTheWayBack) {
  constexpr policy::MacAddress kOtherMac = {0x00, 0x53, 0x00, 0x00, 0x00, 0x05};
  const auto down_other = [this, &kOtherMac] {
    runner().ComeInBy(ProgRunner::kOtherDevice);
    return runner().Run(Hook::kWan, FrameTo(kOtherMac, Answers()));
  };
  const std::string server = far_server();
  Shell("ip link set other up address 00:53:00:00:00:05");
  EXPECT_EQ(down_other(), Leaves(TPX_R_OWN_ADDRESS));
  Shell("ip route add " + server + " dev other");
  Shell("ip neigh replace " + server + " lladdr 00:53:00:00:00:06 dev other");
  EXPECT_EQ(down_other(), Translated());
  ExpectLeft();
  Shell("ip link set other down");
  ExpectSent();
}

TEST_P(Answer, OnlyToTheAddressThatTheSocketHas) {
  upstream().own = Address(own()).raw;
  ExpectSent();
  upstream().own = Address(f().gateway).raw;
  ExpectLeft();
}

// The worker makes one datagram of another.
TEST_P(Answer, NotToAClientOfTheOtherFamily) {
  const char* client = v4() ? "2001:db8:1::66" : "192.0.2.66";
  const char* server = v4() ? "2001:db8:3:1::2" : "203.0.113.130";
  policy::Rule rule = Rule(TPX_FORWARD_AUTO);
  rule.action = TPX_ACTION_REDIRECT;
  rule.target = {.addr = Address(far_server()), .port = kServed};
  Publish(rule);
  EXPECT_EQ(Up(Packet().Ip(client, server).Udp(kClientPort, kServed)), Leaves(TPX_R_RULE_PROXY));
  const tpx_flow flow = FlowOf(Address(client), kClientPort, Address(server), kServed, kUdp);
  upstream().worker = runner().Remembered(flow)->worker;
  upstream().client = Address(client).raw;
  Hear(server, kServed);
  ExpectLeft();
}

// The stack forgets neighbours to whom it sends nothing.
TEST_P(Answer, OneEachTwentySecondsIsTheWorkers) {
  runner().Relay(NowSeconds() - 18);
  ExpectSent();
  runner().Relay(NowSeconds() - 20);
  ExpectLeft();
  ExpectSent();
}

TEST_P(Answer, OfAServerInAnothersPlace) {
  policy::Rule rule = Rule(TPX_FORWARD_AUTO);
  rule.action = TPX_ACTION_REDIRECT;
  rule.target = {.addr = Address(far_server()), .port = kServed + 1};
  Restart(rule);
  const Packet answer = Packet().Ip(far_server(), own()).Udp(kServed + 1, kOwnPort).Payload(32);
  EXPECT_EQ(Down(answer), Leaves(TPX_R_OWN_ADDRESS)) << "a socket for all";
  Hear(far_server(), kServed);
  ExpectDown(answer, AnswersTranslated());
  ExpectLeft();
}

TEST_P(Answer, OfTheOnlyServerThatTheSocketHears) {
  policy::Rule rule = Rule(TPX_FORWARD_AUTO);
  rule.mapping = TPX_MAPPING_ADDRESS_AND_PORT_DEPENDENT;
  Restart(rule);
  ExpectLeft();
  Hear(far_server(), kServed);
  ExpectSent();
  const Packet other = Packet().Ip(far_client(), far_server()).Udp(kClientPort, kServed + 1);
  rule.dports.push_back({kServed + 1, kServed + 1});
  Publish(rule);
  EXPECT_EQ(Up(other), Leaves(TPX_R_RULE_PROXY));
  EXPECT_EQ(Down(Packet().Ip(far_server(), own()).Udp(kServed + 1, kOwnPort)), Leaves(TPX_R_OWN_ADDRESS))
      << "which has another socket";
}

TEST_P(Answer, NotWhereTheClientsAddressIsPreserved) {
  policy::Rule rule = Rule(TPX_FORWARD_AUTO);
  rule.source = TPX_SOURCE_PRESERVE;
  Restart(rule);
  ExpectLeft();
}

TEST_P(Answer, WhatIsNotPlainIsTheWorkers) {
  ExpectLeft(0x12);
  EXPECT_EQ(Down(Answers().HopLimit(1)), Leaves(TPX_R_OWN_ADDRESS));
  EXPECT_EQ(Down(Answers().Fragment(0, true)), Leaves(TPX_R_OWN_ADDRESS));
  EXPECT_EQ(Down(v4() ? Answers().Option({1, 1, 1, 1}) : Answers().Extension(60)), Leaves(TPX_R_OWN_ADDRESS));
  ExpectSent();
}

// The worker has to learn that its client is gone, by its next answer.
TEST_P(Answer, AnIcmpErrorLeavesTheFlowToTheWorker) {
  ExpectSent();
  Up(IcmpError(far_client(), far_server(), AnswersTranslated()));
  ExpectLeft();
  ExpectLeft();
  EXPECT_EQ(Up(), Leaves(TPX_R_ESTABLISHED)) << "somebody is there";
  ExpectSent();
}

// A port that goes from one session to another while answers come: each goes to one of the two, never to what
// is half of either, nor to the one before.
TEST_P(Answer, NeverToHalfOfTwoSessions) {
  const std::array clients = {far_client(), f().client};
  for (const char* client : clients) {
    for (uint16_t port : {kClientPort, kOtherPort}) Up(Packet().Ip(client, far_server()).Udp(port, kServed));
  }
  const uint8_t worker = upstream().worker;
  std::atomic<bool> over{false};
  std::thread changing([&] {
    std::atomic_ref turn(upstream().turn);
    for (uint32_t n = 0; !over; ++n) {
      turn.store(turn.load() + 1);
      upstream().client = Address(clients[n % 2]).raw;
      upstream().client_port = htons(n % 2 ? kOtherPort : kClientPort);
      upstream().worker = worker;
      turn.store(turn.load() + 1);
    }
  });
  cpu_set_t all;
  memset(&all, 0xff, sizeof(all));
  pthread_setaffinity_np(changing.native_handle(), sizeof(all), &all);
  const Bytes frame = FrameTo(kOutMac, Answers());
  const Bytes right = FrameOf(kInMac, kClientMac, AnswersTranslated().HopLimit(63));
  int sent = 0;
  runner().ComeInBy(kOut);
  for (uint32_t n = 0; n < Scaled(200'000); ++n) {
    if (runner().RunFast(Hook::kWan, frame).code != TC_ACT_REDIRECT) continue;
    ++sent;
    ASSERT_EQ(runner().left(), right);
  }
  over = true;
  changing.join();
  EXPECT_GT(sent, 0);
}

}  // namespace
}  // namespace tpx::test
