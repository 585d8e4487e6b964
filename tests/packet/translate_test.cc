// SPDX-License-Identifier: Apache-2.0
// What tc does to the datagrams of a session that its worker has handed over.
#include <bpf/bpf.h>

#include <functional>
#include <utility>

#include "support/nat_fixture.h"
#include "tpx_watchers.h"

namespace tpx::test {
namespace {

class Translate : public NatTest {
 protected:
  void SetUp() override {
    NatTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    Begin(Rule(TPX_FORWARD_FIB));
    HandOver();
  }

  // As the worker would, with what the verdict is now.
  void HandOver() const {
    const tpx_verdict verdict = *runner().Remembered(UpFlow());
    tpx_translation up{}, down{};
    up.as = FlowOf(Address(own()), kOwnPort, Address(far_server()), kServed, kUdp);
    down.as = FlowOf(Address(far_server()), kServed, Address(far_client()), kClientPort, kUdp);
    up.from_lan = 1;
    for (tpx_translation* each : {&up, &down}) {
      each->udp_ended = runner().control().udp_ended;
      each->worker = verdict.worker;
      each->action = verdict.action;
      each->source = verdict.source;
      each->mapping = verdict.mapping;
      each->forward = verdict.forward;
      each->relayed_s = verdict.seen_s;
    }
    up.device_in = kIn;
    Store(UpFlow(), up);
    Store(DownFlow(), down);
    runner().control().translates = 1;
  }
  static void Store(const tpx_flow& flow, const tpx_translation& translation) {
    TPX_PCHECK(bpf_map_update_elem(runner().map_fd("tpx_nat"), &flow, &translation, BPF_ANY) == 0);
  }
  static bool IsThere(const tpx_flow& flow) { return Read(flow).has_value(); }
  static std::optional<tpx_translation> Read(const tpx_flow& flow) {
    tpx_translation found{};
    if (bpf_map_lookup_elem(runner().map_fd("tpx_nat"), &flow, &found) != 0) return std::nullopt;
    return found;
  }
  static void Change(const tpx_flow& flow, const std::function<void(tpx_translation&)>& change) {
    tpx_translation translation = *Read(flow);
    change(translation);
    Store(flow, translation);
  }

  // As forward: auto does, nobody watching.
  void LeaveOpen() const {
    for (const auto& flow : {UpFlow(), DownFlow()})
      Change(flow, [](tpx_translation& t) { t.forward = TPX_FORWARD_AUTO; });
    runner().control().watchers_s = NowSeconds();
  }

  static void ExpectUp(const Packet& packet, Packet translated) {
    EXPECT_EQ(Up(packet), Translated());
    EXPECT_EQ(runner().left(), FrameOf(kOutMac, kHopMac, translated.HopLimit(63)));
  }
  void ExpectBoth() const {
    ExpectDown(Answers(), AnswersTranslated());
    ExpectUp(Asks(), AsksTranslated());
  }
  // To the worker, as if tc had nothing of it.
  void ExpectLeft(uint32_t mark = 0) const {
    EXPECT_EQ(Up(mark), Leaves(TPX_R_ESTABLISHED, mark));
    EXPECT_EQ(Down(mark), Leaves(TPX_R_OWN_ADDRESS, mark));
  }
};
TPX_BOTH_FAMILIES(Translate);

TEST_P(Translate, BothDirections) {
  ExpectBoth();
  for (size_t size : {0, 1, 7, 500, 1350}) {
    ExpectUp(Asks().Payload(size), AsksTranslated().Payload(size));
    ExpectDown(Answers().Payload(size), AnswersTranslated().Payload(size));
  }
}

TEST_P(Translate, WhereTheRuleLeavesItOpenOnlyWhileNobodyWatches) {
  LeaveOpen();
  Attach(kIn);
  Attach(kOut);
  ExpectBoth();
  runner().control().watchers = 1;
  ExpectLeft();
  runner().control().watchers = 0;
  ExpectBoth();
  runner().control().watchers_s = NowSeconds() - TPX_WATCHERS_HOLD_S - 1;
  ExpectLeft();
}

TEST_P(Translate, WhereTheRuleLeavesItOpenOnlyByDevicesThatAreLookedAt) {
  LeaveOpen();
  Attach(kOut);
  ExpectLeft();
  Attach(kIn);
  ExpectBoth();
}

// 0 would say that there is none, so it is 0xffff then (RFC 768).
TEST_P(Translate, AChecksumIsNeverZero) {
  ExpectBoth();
  for (const Bytes& payload : {Balancing(Asks()), Balancing(AsksTranslated())}) {
    ExpectUp(Asks().Payload(payload), AsksTranslated().Payload(payload));
  }
  for (const Bytes& payload : {Balancing(Answers()), Balancing(AnswersTranslated())}) {
    ExpectDown(Answers().Payload(payload), AnswersTranslated().Payload(payload));
  }
}

TEST_P(Translate, WithoutAChecksum) {
  ExpectBoth();
  if (!v4()) return;
  ExpectUp(Asks().NoChecksum(), AsksTranslated().NoChecksum());
  ExpectDown(Answers().NoChecksum(), AnswersTranslated().NoChecksum());
}

TEST_P(Translate, WaitsForAnAnswer) {
  for (int i = 0; i < 3; ++i) EXPECT_EQ(Up(), Leaves(TPX_R_ESTABLISHED));
  ExpectBoth();
}

TEST_P(Translate, GoesByTheDeviceThatAnswersComeBy) {
  ExpectBoth();
  Change(UpFlow(), [](tpx_translation& t) { t.device_out = kOut + 1; });
  EXPECT_EQ(Up(), Leaves(TPX_R_ESTABLISHED));
  Change(DownFlow(), [](tpx_translation& t) { t.device_out = kIn + 1; });
  EXPECT_EQ(Down(), Leaves(TPX_R_OWN_ADDRESS));
}

TEST_P(Translate, TheClientsAddressPreserved) {
  Change(UpFlow(), [this](tpx_translation& t) { t.as = UpFlow(); });
  const tpx_flow answer = FlowOf(Address(far_server()), kServed, Address(far_client()), kClientPort, kUdp);
  tpx_translation down = *Read(DownFlow());
  Store(answer, down);
  ExpectDown(AnswersTranslated(), AnswersTranslated());
  ExpectUp(Asks(), Asks());
}

TEST_P(Translate, OnlyWhileTheWorkerLives) {
  ExpectBoth();
  const uint32_t worker = runner().Remembered(UpFlow())->worker;
  runner().EndLease(worker);
  EXPECT_NE(Up().reason, TPX_R_TRANSLATED);
  EXPECT_EQ(Down(), Leaves(TPX_R_OWN_ADDRESS));
  runner().SetLease(worker, 10'000);
  runner().SetState(worker, TPX_WORKER_ABSENT);
  EXPECT_EQ(Down(), Leaves(TPX_R_OWN_ADDRESS));
  runner().SetState(worker, TPX_WORKER_DRAINING);
  EXPECT_EQ(Down(), Translated());
}

TEST_P(Translate, NotAfterFlowsWereEnded) {
  ExpectBoth();
  ++runner().control().udp_ended;
  ExpectLeft();
}

TEST_P(Translate, NotWhereNobodySaysThatThereAreAny) {
  runner().control().translates = 0;
  ExpectLeft();
}

TEST_P(Translate, FromItsOwnSideOnly) {
  ExpectBoth();
  runner().ComeInBy(kOut);
  EXPECT_EQ(runner().Run(Hook::kLan, FrameTo(kOutMac, Answers())), Leaves(TPX_R_OWN_ADDRESS));
  runner().ComeInBy(kIn);
  EXPECT_EQ(runner().Run(Hook::kWan, FrameTo(kInMac, Asks())), Leaves(TPX_R_WAN));
}

TEST_P(Translate, ByTheDeviceThatItCameByBefore) {
  ExpectBoth();
  runner().ComeInBy(ProgRunner::kOtherDevice);
  EXPECT_EQ(runner().Run(Hook::kLan, Asks().Build()), Leaves(TPX_R_ESTABLISHED));
  EXPECT_EQ(runner().Run(Hook::kWan, Answers().Build()), Leaves(TPX_R_OWN_ADDRESS));
  EXPECT_EQ(Read(UpFlow())->device_in, kIn);
  EXPECT_EQ(Read(DownFlow())->device_in, kOut);
}

// Who keeps connections or neighbours in mind has to see one now and then.
TEST_P(Translate, OneEachTwentySecondsIsTheWorkers) {
  ExpectBoth();
  const auto ago = [this](uint32_t seconds) {
    for (const tpx_flow& flow : {UpFlow(), DownFlow()}) {
      Change(flow, [seconds](tpx_translation& t) { t.relayed_s = --t.seen_s - seconds; });
    }
  };
  ago(18);
  ExpectBoth();
  ago(20);
  ExpectLeft();
  ExpectBoth();
  ago(20);
  ExpectLeft();
}

// Each would be another session's by now.
TEST_P(Translate, NotForAnotherVerdict) {
  using Edit = void (*)(tpx_translation&);
  const std::pair<const char*, Edit> edits[] = {
      {"action", [](tpx_translation& t) { t.action = TPX_ACTION_REDIRECT; }},
      {"source", [](tpx_translation& t) { t.source = TPX_SOURCE_PRESERVE; }},
      {"mapping", [](tpx_translation& t) { t.mapping = TPX_MAPPING_ADDRESS_AND_PORT_DEPENDENT; }},
      {"worker", [](tpx_translation& t) { t.worker ^= 1; }}};
  for (const auto& [what, edit] : edits) {
    HandOver();
    ExpectBoth();
    Change(UpFlow(), edit);
    Change(UpFlow(), [](tpx_translation& t) { t.seen_s = 0; });
    EXPECT_EQ(Up(), Leaves(TPX_R_ESTABLISHED)) << what;
  }
}

TEST_P(Translate, AForgottenFlowIsJudgedAnew) {
  ExpectBoth();
  runner().ForgetFlows();
  Change(UpFlow(), [](tpx_translation& t) { t.seen_s = 0; });
  EXPECT_EQ(Up(), Leaves(TPX_R_RULE_PROXY));
  ExpectUp(Asks(), AsksTranslated());
}

TEST_P(Translate, ARedirectToAnotherServer) {
  policy::Rule rule = Rule(TPX_FORWARD_FIB);
  rule.action = TPX_ACTION_REDIRECT;
  rule.target = {.addr = Address(far_server()), .port = kServed};
  Publish(rule);
  runner().ForgetFlows();
  EXPECT_EQ(Up(), Leaves(TPX_R_RULE_PROXY));
  HandOver();
  ExpectBoth();
  Change(UpFlow(), [](tpx_translation& t) { t.as.dport ^= 1, t.seen_s = 0; });
  EXPECT_EQ(Up(), Leaves(TPX_R_ESTABLISHED));
}

TEST_P(Translate, AnAddressThatTheGatewayHasNoMore) {
  ExpectBoth();
  Change(UpFlow(), [this](tpx_translation& t) { t.as.src = Address(no_neighbour()).raw, t.seen_s = 0; });
  EXPECT_EQ(Up(), Leaves(TPX_R_ESTABLISHED));
}

// XDP and others see by tpx_flows that the flow lives.
TEST_P(Translate, TheFlowStaysKnown) {
  ExpectBoth();
  runner().AgeFlow(UpFlow(), 100);
  const uint32_t before = runner().Remembered(UpFlow())->seen_s;
  Change(UpFlow(), [](tpx_translation& t) { t.seen_s -= 1; });
  ExpectUp(Asks(), AsksTranslated());
  EXPECT_GT(runner().Remembered(UpFlow())->seen_s, before);
  EXPECT_GT(Read(UpFlow())->seen_s, before);
}

TEST_P(Translate, WhatIsNotPlainIsTheWorkers) {
  ExpectBoth();
  ExpectLeft(0x12);
  EXPECT_EQ(Up(Asks().HopLimit(1)), Leaves(TPX_R_ESTABLISHED));
  EXPECT_EQ(Down(Answers().HopLimit(1)), Leaves(TPX_R_OWN_ADDRESS));
  EXPECT_EQ(Up(Asks().Payload(1401)), Leaves(TPX_R_ESTABLISHED));
  EXPECT_EQ(Up(Asks().Fragment(0, true)), Leaves(TPX_R_ESTABLISHED));
  EXPECT_EQ(Down(Answers().Fragment(0, true)), Leaves(TPX_R_OWN_ADDRESS));
  const auto odd = [this](Packet packet) {
    return v4() ? packet.Option({1, 1, 1, 1}) : packet.Extension(60);
  };
  EXPECT_EQ(Up(odd(Asks())), Leaves(TPX_R_ESTABLISHED));
  EXPECT_EQ(Down(odd(Answers())), Leaves(TPX_R_OWN_ADDRESS));
}

TEST_P(Translate, OthersAreNotConcerned) {
  ExpectBoth();
  EXPECT_EQ(Down(Packet().Ip(no_neighbour(), own()).Udp(kServed, kOwnPort)), Leaves(TPX_R_OWN_ADDRESS));
  EXPECT_EQ(Down(Packet().Ip(far_server(), own()).Udp(kServed + 1, kOwnPort)), Leaves(TPX_R_OWN_ADDRESS));
  EXPECT_EQ(Down(Packet().Ip(far_server(), own()).Tcp(kServed, kOwnPort).Syn()), Leaves(TPX_R_OWN_ADDRESS));
  EXPECT_EQ(Up(Packet().Ip(far_client(), far_server()).Udp(kClientPort + 1, kServed)),
            Leaves(TPX_R_RULE_PROXY));
}

// The kernel's socket has to see them, and the worker what it is about.
TEST_P(Translate, AnIcmpErrorGivesTheSessionBack) {
  ExpectBoth();
  Down(IcmpError(far_server(), own(), AsksTranslated()));
  EXPECT_FALSE(IsThere(UpFlow()) || IsThere(DownFlow()));
  ExpectLeft();
  HandOver();
  ExpectBoth();
  Up(IcmpError(far_client(), far_server(), AnswersTranslated()));
  EXPECT_FALSE(IsThere(UpFlow()) || IsThere(DownFlow()));
  ExpectLeft();
}

}  // namespace
}  // namespace tpx::test
