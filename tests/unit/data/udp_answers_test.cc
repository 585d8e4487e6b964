// SPDX-License-Identifier: Apache-2.0
#include "tpx/data/udp_answers.h"

#include <gtest/gtest.h>
#include <string.h>

#include <vector>

#include "tpx/data/decision_source.h"
#include "tpx/sys/socket.h"
#include "tpx/sys/udp_socket.h"

namespace tpx::data {
namespace {

constexpr uint32_t kWorker = 3;

bool Same(const tpx_addr& addr, uint16_t port, const Endpoint& b) {
  const tpx_target target = ToTarget(b);
  return memcmp(&addr, &target.addr, sizeof(addr)) == 0 && port == target.port;
}

class UdpAnswersTest : public testing::TestWithParam<const char*> {
 protected:
  bool v4() const { return client_.addr.is_v4(); }
  UdpSession& Open(const Endpoint& destination = {}, bool preserved = false) {
    const tpx_listener kind = destination.port != 0 ? TPX_LISTENER_UDP_PAIR : TPX_LISTENER_UDP_MASQUERADE;
    const UdpKey key{.client = {client_.addr, ++port_}, .destination = destination, .listener = kind};
    UdpSession& session = *table_.Open(key, preserved, 0);
    session.target = destination;
    session.upstream.Reset(sys::OpenUdpUpstream(v4(), 0));
    EXPECT_EQ(sys::TakeUdpPort(session.upstream.get(), v4()), 0);
    answers_.Announce(session);
    return session;
  }
  tpx_upstream& Of(const UdpSession& session) {
    Endpoint own;
    EXPECT_EQ(sys::OriginalDestination(session.upstream.get(), own), 0);
    return upstreams_[TPX_UPSTREAM(uint32_t{!v4()}, own.port)];
  }
  void Answer(const UdpSession& session, uint64_t now_ms) {
    Of(session).answers++;
    Of(session).answered_ms = static_cast<uint32_t>(now_ms);
  }
  static bool IsAnnounced(const tpx_upstream& upstream) { return upstream.turn % 2 == 1; }

  const Endpoint client_{*IpAddr::Parse(GetParam()), 1000};
  uint16_t port_ = client_.port;
  std::vector<tpx_upstream> upstreams_{TPX_UPSTREAMS};
  UdpTable table_{{.sessions = 1000,
                   .sessions_per_client = 1000,
                   .one_way_ms = 10'000,
                   .answered_ms = 2000,
                   .stream_ms = 5000}};
  UdpAnswers answers_{kWorker, upstreams_, table_};
};
INSTANTIATE_TEST_SUITE_P(, UdpAnswersTest, testing::Values("192.0.2.2", "2001:db8:1::2"),
                         [](const auto& test) { return test.param[0] == '1' ? "v4" : "v6"; });

TEST_P(UdpAnswersTest, APortIsOneSessionsAtATime) {
  UdpSession& session = Open();
  tpx_upstream& upstream = Of(session);
  EXPECT_TRUE(IsAnnounced(upstream));
  EXPECT_TRUE(Same(upstream.client, upstream.client_port, session.key.client));
  EXPECT_EQ(upstream.server_port, 0);
  EXPECT_TRUE(Same(upstream.own, 0, {})) << "any";
  EXPECT_EQ(upstream.worker, kWorker);
  answers_.Withdraw(session);
  EXPECT_FALSE(IsAnnounced(upstream));
  answers_.Withdraw(session);
  EXPECT_FALSE(IsAnnounced(upstream)) << "once is enough";
}

TEST_P(UdpAnswersTest, OfAPairTheServerAsTheClientKnowsItAndTheOwnAddress) {
  const Endpoint server{*IpAddr::Parse(v4() ? "198.51.100.2" : "2001:db8:2::2"), 53};
  const Endpoint here{*IpAddr::Parse(v4() ? "127.0.0.1" : "::1"), 53};
  UdpSession& session = Open(server);
  answers_.Withdraw(session);
  ASSERT_EQ(sys::ConnectUdp(session.upstream.get(), here), 0);
  answers_.Announce(session);
  const tpx_upstream& upstream = Of(session);
  EXPECT_TRUE(Same(upstream.server, upstream.server_port, server));
  EXPECT_TRUE(Same(upstream.own, 0, {here.addr, 0}));
}

TEST_P(UdpAnswersTest, NotWhereTheServerIsOfTheOtherFamily) {
  UdpSession& session = Open();
  answers_.Withdraw(session);
  session.key.listener = TPX_LISTENER_UDP_PAIR;
  session.target = {*IpAddr::Parse(v4() ? "2001:db8:2::2" : "198.51.100.2"), 53};
  answers_.Announce(session);
  EXPECT_EQ(session.port, 0);
}

TEST_P(UdpAnswersTest, APreservedSessionHasNoPortOfTheGateways) {
  UdpSession& session = Open({}, true);
  EXPECT_FALSE(IsAnnounced(Of(session)));
  answers_.Withdraw(session);
  EXPECT_FALSE(IsAnnounced(Of(session)));
}

TEST_P(UdpAnswersTest, WithoutAMapNothingHappens) {
  UdpAnswers none(kWorker, {}, table_);
  UdpSession& session = Open();
  answers_.Withdraw(session);
  none.Announce(session);
  EXPECT_FALSE(none.Note(session));
  none.Look(5000);
  EXPECT_EQ(none.NextLook(), UINT64_MAX);
  none.Withdraw(session);
}

TEST_P(UdpAnswersTest, CountsWhatTcSent) {
  UdpSession& session = Open();
  EXPECT_FALSE(answers_.Note(session));
  Of(session).answers += 2;
  EXPECT_TRUE(answers_.Note(session));
  EXPECT_EQ(session.down, 2);
  EXPECT_FALSE(answers_.Note(session));
  Of(session).answers += 1000;
  EXPECT_TRUE(answers_.Note(session));
  EXPECT_EQ(session.down, 255);
}

// Of the session before.
TEST_P(UdpAnswersTest, APortsOldAnswersAreNotTheNextOnes) {
  UdpSession& session = Open();
  Of(session).answers = UINT16_MAX;
  answers_.Withdraw(session);
  session.down = 0;
  answers_.Announce(session);
  EXPECT_FALSE(answers_.Note(session));
  Of(session).answers += 3;
  EXPECT_TRUE(answers_.Note(session));
  EXPECT_EQ(session.down, 3);
}

TEST_P(UdpAnswersTest, AnswersKeepASessionYoung) {
  std::vector<UdpSession*> sessions;
  for (int n = 0; n < 600; ++n) sessions.push_back(&Open());  // in several parts of the table
  EXPECT_EQ(answers_.NextLook(), 0u);
  uint64_t now = (uint64_t{1} << 32) + 500;  // tc tells the lowest bits only
  for (UdpSession* session : sessions) table_.Touch(*session, now - 5000);
  for (UdpSession* session : sessions) Answer(*session, now - 1000);
  for (answers_.Look(now); answers_.NextLook() == 0;) answers_.Look(now);
  EXPECT_EQ(answers_.NextLook(), now + 500);
  EXPECT_EQ(answers_.busy_ms(), now);
  EXPECT_EQ(table_.Expired(now + 3999), nullptr) << "by the time of streams, from then on";
  EXPECT_NE(table_.Expired(now + 4000), nullptr);
  Answer(*sessions[0], now + 400);
  answers_.Look(now + 499);
  EXPECT_EQ(answers_.busy_ms(), now) << "not before the next round";
}

TEST_P(UdpAnswersTest, LooksSoonWhereSessionsMakeRoom) {
  Open();
  for (answers_.Look(5000); answers_.NextLook() == 0;) answers_.Look(5000);
  EXPECT_EQ(answers_.NextLook(), 5500u);
  answers_.LookSoon(5020);
  answers_.LookSoon(5040);
  EXPECT_EQ(answers_.NextLook(), 5070u);
}

TEST_P(UdpAnswersTest, LooksAtThoseThatSeemToWait) {
  UdpSession &waiting = Open(), &answered = Open(), &newer = Open();
  EXPECT_FALSE(answers_.LookAtWaiting(100));
  Answer(answered, 90);
  Answer(newer, 95);
  EXPECT_TRUE(answers_.LookAtWaiting(100));
  EXPECT_EQ(answered.down, 1);
  EXPECT_EQ(newer.down, 1);
  EXPECT_EQ(waiting.down, 0);
  EXPECT_EQ(table_.Oldest(), &answered) << "those that wait are no flood";
  EXPECT_FALSE(answers_.LookAtWaiting(100));
}

// An answer that is noticed late makes its session no younger than one that has asked since.
TEST_P(UdpAnswersTest, WhoGoesFirstIsNotAMatterOfWhenItIsNoticed) {
  UdpSession &answered = Open(), &waiting = Open();
  table_.Touch(waiting, 100);
  Answer(answered, 50);
  EXPECT_TRUE(answers_.Refresh(answered, 500)) << "has another class";
  EXPECT_EQ(answered.owner->oldest, &answered);
  Answer(answered, 300);
  EXPECT_FALSE(answers_.Refresh(answered, 600));
  EXPECT_EQ(answered.owner->oldest, &answered);
  Answer(answered, 3000);
  EXPECT_TRUE(answers_.Refresh(answered, 3000));
  EXPECT_EQ(answered.owner->oldest, &waiting) << "was answered long after";
}

}  // namespace
}  // namespace tpx::data
