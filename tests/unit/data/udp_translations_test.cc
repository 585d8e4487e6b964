// SPDX-License-Identifier: Apache-2.0
#include "tpx/data/udp_translations.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <string.h>

#include <optional>
#include <utility>
#include <vector>

#include "tpx/sys/udp_socket.h"

namespace tpx::data {
namespace {

constexpr uint16_t kEnough = 16;

bool Same(const tpx_flow& a, const tpx_flow& b) { return memcmp(&a, &b, sizeof(a)) == 0; }

struct FakeMap final : TranslationMap {
  bool Forwards(tpx_forward forward) override {
    return forward == TPX_FORWARD_FIB || (forward == TPX_FORWARD_AUTO && !watched);
  }
  bool Store(const tpx_flow& arriving, const tpx_translation& translation) override {
    if (entries.size() >= room) return false;
    entries.emplace_back(arriving, translation);
    return true;
  }
  std::optional<tpx_translation> Find(const tpx_flow& arriving) override {
    tpx_translation* found = At(arriving);
    return found == nullptr ? std::nullopt : std::optional(*found);
  }
  void Erase(const tpx_flow& arriving) override {
    std::erase_if(entries, [&](const auto& entry) { return Same(entry.first, arriving); });
  }
  tpx_translation* At(const tpx_flow& arriving) {
    for (auto& [flow, translation] : entries) {
      if (Same(flow, arriving)) return &translation;
    }
    return nullptr;
  }

  bool watched = false;
  size_t room = 100;
  std::vector<std::pair<tpx_flow, tpx_translation>> entries;
};

struct FakeDecisions final : DecisionSource {
  std::optional<tpx_verdict> Find(const tpx_flow&) override {
    ++asked;
    return verdict;
  }
  bool IsGateway(const IpAddr& address) override { return address == own; }
  uint32_t UdpEnded() override { return ended; }
  void NoteOriginal(int, const Endpoint&, const Endpoint&) override {}

  IpAddr own{};
  std::optional<tpx_verdict> verdict = tpx_verdict{};
  uint32_t ended = 7;
  int asked = 0;
};

class UdpTranslationsTest : public testing::Test {
 protected:
  UdpTranslationsTest() {
    decisions_.verdict->action = TPX_ACTION_PROXY;
    decisions_.verdict->forward = TPX_FORWARD_FIB;
    decisions_.verdict->device = 11;
  }

  UdpSession& Open(uint16_t port) {
    UdpSession& session =
        *table_.Open({.client = {*IpAddr::Parse("192.0.2.2"), port}, .destination = {}}, false, 0);
    session.upstream.Reset(sys::OpenUdpUpstream(true, 0));
    EXPECT_EQ(sys::ConnectUdp(session.upstream.get(), {*IpAddr::Parse("127.0.0.1"), 9}), 0);
    session.down = 1;
    session.calls = kEnough;
    return session;
  }
  tpx_translation& Up(const UdpSession& session) {
    return *map_.At(FlowOf(IPPROTO_UDP, session.key.client, server_));
  }
  void See(const UdpSession& session, uint32_t second) { Up(session).seen_s = second; }
  uint64_t Gauge() const { return shared_.counter[TPX_C_UDP_TRANSLATED]; }

  const Endpoint server_{*IpAddr::Parse("198.51.100.2"), 443};
  tpx_worker shared_{};
  SharedSlot slot_{&shared_};
  FakeDecisions decisions_;
  FakeMap map_;
  UdpTable table_{{.sessions = 200, .sessions_per_client = 200, .one_way_ms = 1000, .stream_ms = 5000}};
  UdpTranslations translations_{3, 0, decisions_, map_, slot_, table_};
};

TEST_F(UdpTranslationsTest, HandsBothDirectionsOver) {
  UdpSession& session = Open(1000);
  translations_.OnAnswer(session, server_, 5000);
  ASSERT_EQ(map_.entries.size(), 2u);
  const tpx_translation up = Up(session);
  EXPECT_TRUE(up.from_lan == 1 && up.worker == 3 && up.udp_ended == 7 && up.device_in == 11 &&
              up.device_out == 0);
  EXPECT_EQ(up.seen_s, 4u);
  const tpx_flow answer = {.src = up.as.dst,
                           .dst = up.as.src,
                           .sport = up.as.dport,
                           .dport = up.as.sport,
                           .proto = IPPROTO_UDP,
                           .pad = {}};
  ASSERT_NE(map_.At(answer), nullptr) << "answers come to where it sends from";
  EXPECT_TRUE(Same(map_.At(answer)->as, FlowOf(IPPROTO_UDP, server_, session.key.client)));
  EXPECT_EQ(Gauge(), 1u);
  translations_.OnAnswer(session, server_, 5000);
  EXPECT_EQ(decisions_.asked, 1);
  translations_.TakeBack(session);
  EXPECT_TRUE(map_.entries.empty());
  EXPECT_EQ(Gauge(), 0u);
}

TEST_F(UdpTranslationsTest, NotBeforeItPays) {
  UdpSession& session = Open(1000);
  session.calls = kEnough - 1;
  translations_.OnAnswer(session, server_, 5000);
  EXPECT_EQ(decisions_.asked, 0);
}

TEST_F(UdpTranslationsTest, WhereItCameToNothingItTriesLater) {
  UdpSession& session = Open(1000);
  const auto says_fib = decisions_.verdict;
  tpx_verdict says_stack = *says_fib;
  says_stack.forward = TPX_FORWARD_STACK;
  int asked = 0;
  uint16_t enough = kEnough;
  for (std::optional<tpx_verdict> verdict : {std::optional(says_stack), std::optional<tpx_verdict>()}) {
    decisions_.verdict = verdict;
    session.calls = enough;
    translations_.OnAnswer(session, server_, 5000);
    EXPECT_EQ(decisions_.asked, ++asked);
    session.calls = static_cast<uint16_t>(enough * 2 - 1);
    translations_.OnAnswer(session, server_, 5000);
    EXPECT_EQ(decisions_.asked, asked) << "not for each datagram";
    enough = static_cast<uint16_t>(enough * 2);
  }
  EXPECT_TRUE(map_.entries.empty());
  decisions_.verdict = says_fib;
  session.calls = enough;
  translations_.OnAnswer(session, server_, 5000);
  EXPECT_EQ(map_.entries.size(), 2u);
}

TEST_F(UdpTranslationsTest, WhatTheGatewayServesItselfIsNotForwarded) {
  decisions_.own = server_.addr;
  translations_.OnAnswer(Open(1000), server_, 5000);
  EXPECT_TRUE(map_.entries.empty());
}

TEST_F(UdpTranslationsTest, ByItselfOnlyWhileNobodyWatches) {
  UdpSession& session = Open(1000);
  decisions_.verdict->forward = TPX_FORWARD_AUTO;
  map_.watched = true;
  translations_.OnAnswer(session, server_, 5000);
  EXPECT_TRUE(map_.entries.empty());
  map_.watched = false;
  session.calls = UINT16_MAX;
  translations_.OnAnswer(session, server_, 5000);
  ASSERT_EQ(map_.entries.size(), 2u);
  EXPECT_EQ(Up(session).forward, TPX_FORWARD_AUTO);
  translations_.Look(5500);
  EXPECT_NE(session.translation, UdpSession::kUntranslated);
  map_.watched = true;
  translations_.Look(6000);
  EXPECT_EQ(session.translation, UdpSession::kUntranslated);
  EXPECT_TRUE(map_.entries.empty());
}

TEST_F(UdpTranslationsTest, TheLongestTimeToWaitIsBounded) {
  UdpSession& session = Open(1000);
  decisions_.verdict = std::nullopt;
  for (int tries = 1; tries <= 40; ++tries) {
    session.calls = UINT16_MAX;
    translations_.OnAnswer(session, server_, 5000);
    ASSERT_EQ(decisions_.asked, tries);
  }
}

TEST_F(UdpTranslationsTest, AFullTableLeavesItToTheWorker) {
  UdpSession& session = Open(1000);
  for (size_t room : {0, 1}) {
    map_.room = room;
    session.calls = UINT16_MAX;
    translations_.OnAnswer(session, server_, 5000);
    EXPECT_TRUE(map_.entries.empty()) << "half a pair is none";
  }
  EXPECT_EQ(shared_.counter[TPX_C_UDP_TRANSLATION_REFUSED], 2u);
  EXPECT_EQ(translations_.NextLook(), UINT64_MAX);
}

TEST_F(UdpTranslationsTest, DatagramsThatTcForwardsKeepASessionYoung) {
  UdpSession& session = Open(1000);
  table_.Touch(session, 5000);
  translations_.OnAnswer(session, server_, 5000);
  for (uint64_t now = 5500; now < 12'000; now += 500) {
    See(session, static_cast<uint32_t>(now / 1000));
    EXPECT_LE(translations_.NextLook(), now);
    translations_.Look(now);
    EXPECT_EQ(table_.Expired(now), nullptr);
    EXPECT_TRUE(translations_.IsBusy(session, now));
    EXPECT_EQ(translations_.busy_ms(), now);
  }
  EXPECT_FALSE(translations_.IsBusy(session, 14'000));
  EXPECT_EQ(table_.Expired(17'500), &session);
}

TEST_F(UdpTranslationsTest, TcMaySeeASecondBeginFirst) {
  UdpSession& session = Open(1000);
  translations_.OnAnswer(session, server_, 5000);
  See(session, 6);
  translations_.Look(5999);
  EXPECT_NE(session.translation, UdpSession::kUntranslated);
  EXPECT_TRUE(translations_.IsBusy(session, 5999));
  EXPECT_EQ(translations_.busy_ms(), 5999u);
}

TEST_F(UdpTranslationsTest, WhatIsIdleOrVoidIsTakenBack) {
  UdpSession &idle = Open(1000), &ended = Open(1001), &gone = Open(1002);
  for (UdpSession* session : {&idle, &ended, &gone}) translations_.OnAnswer(*session, server_, 5000);
  EXPECT_EQ(Gauge(), 3u);
  map_.Erase(FlowOf(IPPROTO_UDP, gone.key.client, server_));
  decisions_.ended = 7;
  Up(ended).udp_ended = 6;
  translations_.Look(5500);
  EXPECT_EQ(Gauge(), 1u);
  EXPECT_NE(idle.translation, UdpSession::kUntranslated);
  translations_.Look(15'500);
  EXPECT_EQ(Gauge(), 1u);
  translations_.Look(16'000);
  EXPECT_EQ(Gauge(), 0u);
}

// It may have another way, or another address of the gateway's, by now.
TEST_F(UdpTranslationsTest, WhatTheClientSendsPastTcIsTakenBack) {
  UdpSession &waits = Open(1000), &sent = Open(1001);
  for (UdpSession* session : {&waits, &sent}) translations_.OnAnswer(*session, server_, 5000);
  See(sent, 6);
  waits.calls = sent.calls = kEnough;
  translations_.Look(6000);
  EXPECT_EQ(Gauge(), 2u);
  EXPECT_EQ(sent.calls, 0) << "what goes by tc has to be silent first";
  sent.calls = kEnough;
  translations_.Look(8000);
  EXPECT_EQ(sent.translation, UdpSession::kUntranslated);
  EXPECT_EQ(sent.enough, kEnough) << "at once again";
  EXPECT_NE(waits.translation, UdpSession::kUntranslated) << "an answer may take its time";
  translations_.Look(16'000);
  EXPECT_EQ(waits.translation, UdpSession::kUntranslated);
  EXPECT_EQ(waits.enough, 2 * kEnough) << "not at once";
}

// The flow went to another worker while this one did not live.
TEST_F(UdpTranslationsTest, WhatAnotherStoredIsNotTouched) {
  UdpSession& session = Open(1000);
  translations_.OnAnswer(session, server_, 5000);
  Up(session).worker = 4;
  See(session, 5);
  translations_.Look(5500);
  EXPECT_EQ(session.translation, UdpSession::kUntranslated);
  ASSERT_EQ(map_.entries.size(), 1u);
  EXPECT_EQ(Up(session).worker, 4);
}

TEST_F(UdpTranslationsTest, LooksAtAFewAtATime) {
  std::vector<UdpSession*> sessions;
  map_.room = 1000;
  for (uint16_t port = 1; port <= 150; ++port) {
    sessions.push_back(&Open(port));
    translations_.OnAnswer(*sessions.back(), server_, 5000);
  }
  ASSERT_EQ(Gauge(), 150u);
  for (UdpSession* session : sessions) See(*session, 20);
  int turns = 0;
  do {
    translations_.Look(20'000);
    ++turns;
  } while (translations_.NextLook() <= 20'000);
  EXPECT_EQ(turns, 3);
  EXPECT_EQ(table_.Expired(24'000), nullptr) << "each was looked at";
  // In the middle of a round some go.
  translations_.Look(31'000);
  for (UdpSession* session : sessions) translations_.TakeBack(*session);
  translations_.Look(31'000);
  EXPECT_EQ(Gauge(), 0u);
}

}  // namespace
}  // namespace tpx::data
