// SPDX-License-Identifier: Apache-2.0
#include "tpx/data/spare_upstreams.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <vector>

#include "tpx/data/udp_table.h"
#include "tpx/sys/socket.h"
#include "tpx/sys/udp_socket.h"

namespace tpx::data {
namespace {

constexpr uint64_t kRestMs = 5, kKeepMs = 1000;

class SpareUpstreamsTest : public testing::TestWithParam<bool> {
 protected:
  bool v4() const { return GetParam(); }
  IpAddr Loopback() const { return *IpAddr::Parse(v4() ? "127.0.0.1" : "::1"); }

  // A session whose socket has a port, and as if its request was armed.
  UdpSession& Open() { return Open({.client = {AddressOf(v4()), ++port_}, .destination = {}}); }
  UdpSession& Open(const UdpKey& key) {
    UdpSession& session = *table_.Open(key, false, 0);
    session.upstream.Reset(sys::OpenUdpUpstream(v4(), 0));
    EXPECT_EQ(sys::TakeUdpPort(session.upstream.get(), v4()), 0);
    session.receiving = true;
    return session;
  }
  bool Keep(UdpSession& session, uint64_t now_ms = 0) {
    table_.Close(session);
    return spares_.Keep(session, now_ms);
  }
  // `idle`: what is answered to each question whether completions are waiting; the last answer stays.
  void Examine(uint64_t now_ms, std::vector<bool> idle = {true}) {
    size_t asked = 0;
    spares_.Examine(
        now_ms, [&] { return idle[std::min(asked++, idle.size() - 1)]; },
        [this](UdpSession& session) {
          SpareUpstreams::Remove(session);
          closed_.push_back(&session);
        });
  }
  UdpSession* Take(bool v4, bool pair = false) {
    UdpKey key{.client = {AddressOf(v4), 1}, .destination = {}};
    if (pair) key.listener = TPX_LISTENER_UDP_PAIR;
    return spares_.Take(key, pair ? Endpoint{AddressOf(v4), 2} : Endpoint{});
  }
  UdpSession* Take() { return Take(v4()); }
  static IpAddr AddressOf(bool v4) { return *IpAddr::Parse(v4 ? "192.0.2.2" : "2001:db8::2"); }
  void WaitFor(const UdpSession& session, short events) {
    pollfd look{.fd = session.upstream.get(), .events = events, .revents = 0};
    ASSERT_EQ(poll(&look, 1, 5000), 1);
  }
  static uint16_t PortOf(const UdpSession& session) {
    Endpoint own;
    return sys::OriginalDestination(session.upstream.get(), own) == 0 ? own.port : 0;
  }
  void SendTo(uint16_t port) {
    UniqueFd fd(sys::OpenUdpUpstream(v4(), 0));
    const iovec bytes{.iov_base = const_cast<char*>("late"), .iov_len = 4};
    ASSERT_EQ(sys::SendUdp(fd.get(), {&bytes, 1}, {.destination = {Loopback(), port}}), 4);
  }

  UdpTable table_{UdpLimits{.sessions = 3000, .sessions_per_client = 3000}};
  SpareUpstreams spares_;
  std::vector<UdpSession*> closed_;
  uint16_t port_ = 1000;
};

TEST_P(SpareUpstreamsTest, IsForAnotherSessionOfItsFamilyAfterARest) {
  UdpSession& session = Open();
  const int fd = session.upstream.get();
  const uint32_t index = session.index, generation = session.generation;
  session.down = session.up = 7;
  session.no_trains = true;
  ASSERT_TRUE(Keep(session));
  EXPECT_EQ(PortOf(session), 0) << "it keeps its port";
  EXPECT_EQ(spares_.NextTimeout(), kRestMs);
  Examine(kRestMs - 1);
  EXPECT_EQ(Take(), nullptr) << "it did not rest";
  Examine(kRestMs);
  EXPECT_EQ(Take(!v4()), nullptr);
  ASSERT_EQ(Take(), &session);
  EXPECT_EQ(Take(), nullptr);
  EXPECT_EQ(spares_.size(), 0u);
  EXPECT_EQ(session.upstream.get(), fd);
  EXPECT_EQ(session.index, index);
  EXPECT_EQ(session.generation, generation);
  EXPECT_TRUE(session.receiving);
  EXPECT_EQ(session.up + session.down + session.no_trains, 0) << "it remembers what it was";
  EXPECT_EQ(sys::TakeUdpPort(fd, v4()), 0);
  EXPECT_NE(PortOf(session), 0);
}

TEST_P(SpareUpstreamsTest, OneOfAPairIsForPairs) {
  const Endpoint server{Loopback(), 9};
  UdpKey key{.client = {AddressOf(!v4()), 1}, .destination = server};  // the server's family is what counts
  key.listener = TPX_LISTENER_UDP_PAIR;
  UdpSession& session = Open(key);
  session.target = server;
  ASSERT_EQ(sys::ConnectUdp(session.upstream.get(), server), 0);
  ASSERT_TRUE(Keep(session));
  sockaddr_storage peer;
  socklen_t length = sizeof(peer);
  EXPECT_EQ(getpeername(session.upstream.get(), reinterpret_cast<sockaddr*>(&peer), &length), -1);
  Examine(kRestMs);
  EXPECT_EQ(Take(v4()), nullptr);
  EXPECT_EQ(Take(!v4()), nullptr);
  EXPECT_EQ(Take(!v4(), true), nullptr);
  EXPECT_EQ(Take(v4(), true), &session);
}

TEST_P(SpareUpstreamsTest, RestsUntilItIsEmpty) {
  UdpSession& session = Open();
  SendTo(PortOf(session));
  WaitFor(session, POLLIN);
  ASSERT_TRUE(Keep(session));
  Examine(kRestMs);
  EXPECT_EQ(Take(), nullptr) << "somebody else's datagram waits in it";
  EXPECT_EQ(spares_.size(), 1u);
  char data[8];
  EXPECT_EQ(recv(session.upstream.get(), data, sizeof(data), MSG_DONTWAIT), 4);
  Examine(2 * kRestMs - 1);
  EXPECT_EQ(Take(), nullptr);
  Examine(2 * kRestMs);
  EXPECT_EQ(Take(), &session);
}

TEST_P(SpareUpstreamsTest, RestsWhileCompletionsWait) {
  ASSERT_TRUE(Keep(Open()));
  Examine(kRestMs, {false});
  EXPECT_EQ(Take(), nullptr);
  Examine(kRestMs, {true, false});
  EXPECT_EQ(Take(), nullptr) << "while it was looked at, something came";
  Examine(2 * kRestMs);
  EXPECT_NE(Take(), nullptr);
}

TEST_P(SpareUpstreamsTest, WithAnErrorItIsClosed) {
  UdpSession& session = Open();
  UniqueFd other(sys::OpenUdpUpstream(v4(), 0));
  ASSERT_EQ(sys::TakeUdpPort(other.get(), v4()), 0);
  Endpoint nobody;
  ASSERT_EQ(sys::OriginalDestination(other.get(), nobody), 0);
  other.Reset();
  const iovec bytes{.iov_base = const_cast<char*>("?"), .iov_len = 1};
  ASSERT_EQ(sys::SendUdp(session.upstream.get(), {&bytes, 1}, {.destination = {Loopback(), nobody.port}}), 1);
  WaitFor(session, POLLERR);
  ASSERT_TRUE(Keep(session));
  Examine(kRestMs);
  EXPECT_EQ(closed_, std::vector{&session});
  EXPECT_EQ(spares_.size(), 0u);
}

TEST_P(SpareUpstreamsTest, NobodyNeededItForASecond) {
  UdpSession& session = Open();
  ASSERT_TRUE(Keep(session));
  Examine(kRestMs);
  EXPECT_EQ(spares_.NextTimeout(), kRestMs + kKeepMs);
  Examine(kRestMs + kKeepMs - 1);
  EXPECT_TRUE(closed_.empty());
  Examine(kRestMs + kKeepMs);
  EXPECT_EQ(closed_, std::vector{&session});
}

TEST_P(SpareUpstreamsTest, NotAllAreKept) {
  UdpSession& preserved = Open();
  preserved.preserved = true;
  EXPECT_FALSE(Keep(preserved)) << "its address is that of its client";
  UdpSession& idle = Open();
  idle.receiving = false;
  EXPECT_FALSE(Keep(idle)) << "no request";
  EXPECT_EQ(spares_.Any(), nullptr);
}

TEST_P(SpareUpstreamsTest, FragmentsAreForbiddenAgain) {
  UdpSession& session = Open();
  session.fragments = true;
  ASSERT_EQ(sys::AllowFragments(session.upstream.get(), v4(), true), 0);
  ASSERT_TRUE(Keep(session));
  Examine(kRestMs);
  ASSERT_EQ(Take(), &session);
  EXPECT_FALSE(session.fragments);
  int how = -1;
  socklen_t length = sizeof(how);
  ASSERT_EQ(getsockopt(session.upstream.get(), v4() ? SOL_IP : SOL_IPV6,
                       v4() ? IP_MTU_DISCOVER : IPV6_MTU_DISCOVER, &how, &length),
            0);
  EXPECT_EQ(how, v4() ? IP_PMTUDISC_DO : IPV6_PMTUDISC_DO);
}

INSTANTIATE_TEST_SUITE_P(Families, SpareUpstreamsTest, testing::Bool(),
                         [](const auto& v4) { return v4.param ? "v4" : "v6"; });

}  // namespace
}  // namespace tpx::data
