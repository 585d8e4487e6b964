// SPDX-License-Identifier: Apache-2.0
// How connections end: FIN becomes FIN, RST becomes RST, and what was sent
// before either arrives. "near" is the side that acts, "far" the other.
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <string>
#include <thread>

#include "unit/data/gateway_lab.h"

namespace tpx::data {
namespace {

constexpr size_t kCopied = 10'000;      // too little for a pipe
constexpr size_t kSpliced = 1'500'000;  // fits into the sockets' buffers on the way

class RelayEnd : public WorkerTest {
 protected:
  RelayEnd() { options_.connect_ms = 700; }

  // Runs `script` with either side as the one that acts.
  template <typename Script>
  void BothWays(Script script) {
    for (bool server_acts : {false, true}) {
      for (size_t size : {size_t{0}, size_t{1}, kCopied, kSpliced}) {
        SCOPED_TRACE(testing::Message()
                     << (server_acts ? "server" : "client") << " acts, " << size << " bytes");
        Pair pair = Open();
        script(server_acts ? pair.server : pair.client, server_acts ? pair.client : pair.server, size);
      }
    }
  }
  int ReadEnd(const UniqueFd& fd, size_t expected) {
    size_t got = 0;
    const int end = ReadToEnd(fd.get(), &got);
    EXPECT_EQ(got, expected);
    return end;
  }
};
INSTANTIATE_TEST_SUITE_P(Families, RelayEnd, testing::ValuesIn(kFamilies), FamilyName);

TEST_P(RelayEnd, PassesAHalfCloseOnAndGoesOnTheOtherWay) {
  BothWays([&](UniqueFd& near, UniqueFd& far, size_t size) {
    ASSERT_TRUE(SendPattern(near.get(), size));
    shutdown(near.get(), SHUT_WR);
    EXPECT_EQ(ReadEnd(far, size), 0);
    std::thread answer([&] {
      EXPECT_TRUE(SendPattern(far.get(), kSpliced));
      shutdown(far.get(), SHUT_WR);
    });
    EXPECT_EQ(ReadEnd(near, kSpliced), 0);
    answer.join();
  });
  EXPECT_TRUE(CountBecomes(TPX_C_CLOSED_CLEAN, 8));
}

TEST_P(RelayEnd, PassesSimultaneousFinsOn) {
  BothWays([&](UniqueFd& near, UniqueFd& far, size_t size) {
    std::thread other([&] {
      EXPECT_TRUE(SendPattern(far.get(), size));
      shutdown(far.get(), SHUT_WR);
    });
    ASSERT_TRUE(SendPattern(near.get(), size));
    shutdown(near.get(), SHUT_WR);
    EXPECT_EQ(ReadEnd(far, size), 0);
    EXPECT_EQ(ReadEnd(near, size), 0);
    other.join();
  });
  EXPECT_TRUE(CountBecomes(TPX_C_CLOSED_CLEAN, 8));
}

TEST_P(RelayEnd, SendsFinOnlyAfterWhatIsInThePipe) {
  constexpr size_t kMuch = 24 << 20;  // more than sockets and pipe hold
  Pair pair = Open();
  std::thread sender([&] {
    EXPECT_TRUE(SendPattern(pair.server.get(), kMuch));
    shutdown(pair.server.get(), SHUT_WR);
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  EXPECT_EQ(ReadEnd(pair.client, kMuch), 0);
  sender.join();
}

TEST_P(RelayEnd, PassesAResetOnAfterTheBytesBeforeIt) {
  BothWays([&](UniqueFd& near, UniqueFd& far, size_t size) {
    ASSERT_TRUE(SendPattern(near.get(), size));
    if (size > 0) {
      ASSERT_TRUE(ReadPattern(far.get(), 1));
    }
    // The kernel drops what the sender's socket still holds: let it leave.
    ASSERT_TRUE(Eventually([&] { return Count(TPX_C_SESSIONS) == 1; }));
    std::this_thread::sleep_for(std::chrono::milliseconds(60));
    ResetOnClose(near.get());
    near.Reset();
    if (size == 0) {
      EXPECT_EQ(ReadEnd(far, 0), -ECONNRESET);
    } else {
      EXPECT_TRUE(ReadPattern(far.get(), size - 1, 1));
      char byte;
      EXPECT_EQ(recv(far.get(), &byte, 1, 0), -1);
      EXPECT_EQ(errno, ECONNRESET);
    }
  });
  EXPECT_TRUE(Eventually([&] { return Resets() == 8; }));
  EXPECT_EQ(Count(TPX_C_CLOSED_CLIENT_RESET), 4u);
}

TEST_P(RelayEnd, ResetsTheReaderWhoseSenderResetsWithUnsentBytes) {
  Pair pair = Open();
  std::thread sender([&] { SendPattern(pair.server.get(), 64 << 20); });
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  ResetOnClose(pair.server.get());
  shutdown(pair.server.get(), SHUT_RDWR);  // ends the sender's call
  sender.join();
  pair.server.Reset();
  size_t got = 0;
  EXPECT_EQ(ReadToEnd(pair.client.get(), &got), -ECONNRESET) << "a truncated stream must not end with FIN";
  EXPECT_GT(got, 0u);
}

TEST_P(RelayEnd, PassesAResetOnAfterAFin) {
  BothWays([&](UniqueFd& near, UniqueFd& far, size_t size) {
    ASSERT_TRUE(SendPattern(near.get(), size));
    shutdown(near.get(), SHUT_WR);
    EXPECT_EQ(ReadEnd(far, size), 0);
    ResetOnClose(near.get());
    near.Reset();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    EXPECT_TRUE(Eventually([&] { return send(far.get(), "x", 1, MSG_NOSIGNAL) < 0; }));
  });
  EXPECT_TRUE(Eventually([&] { return Resets() == 8; }));
}

TEST_P(RelayEnd, PassesOnTheResetOfACloseWithUnreadBytes) {
  BothWays([&](UniqueFd& near, UniqueFd& far, size_t) {
    ASSERT_TRUE(SendPattern(far.get(), 100));
    char byte;
    ASSERT_EQ(recv(near.get(), &byte, 1, MSG_PEEK), 1);
    near.Reset();
    EXPECT_EQ(End(far), -ECONNRESET);
  });
}

TEST_P(RelayEnd, ResetsTheClientOfAServerThatCannotBeReached) {
  const struct {
    const char* address;
    tpx_worker_counter counter;
  } cases[] = {{GetParam().no_service, TPX_C_CONNECT_REFUSED},
               {GetParam().unreachable, TPX_C_CONNECT_UNREACHABLE},
               {GetParam().black_hole, TPX_C_CONNECT_TIMEOUT}};
  for (const auto& c : cases) {
    UniqueFd client = ConnectTo(lab_->client, At(c.address));
    if (client) {  // the reset may come before connect() returns
      EXPECT_EQ(ReadEnd(client, 0), -ECONNRESET) << c.address;
    }
    EXPECT_TRUE(CountBecomes(c.counter, 1)) << c.address;
  }
}

TEST_P(RelayEnd, GivesUpConnectingWhenTheClientResets) {
  UniqueFd client = ConnectTo(lab_->client, At(GetParam().black_hole));
  ASSERT_TRUE(client);
  ASSERT_TRUE(CountBecomes(TPX_C_SESSIONS, 1));
  ResetOnClose(client.get());
  client.Reset();
  EXPECT_TRUE(CountBecomes(TPX_C_CLOSED_CLIENT_RESET, 1));
  EXPECT_EQ(Count(TPX_C_CONNECT_TIMEOUT), 0u);
}

TEST_P(RelayEnd, KeepsConnectingWhenTheClientHalfCloses) {
  options_.connect_ms = 5000;
  Restart();
  const std::string address = GetParam().black_hole;
  const bool v4 = address.find(':') == address.npos;
  const std::string on_loopback = address + (v4 ? "/32 dev lo" : "/128 dev lo nodad");
  UniqueFd client = ConnectTo(lab_->client, At(address.c_str()));
  ASSERT_TRUE(SendPattern(client.get(), 100));
  shutdown(client.get(), SHUT_WR);
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  lab_->server.Sh("ip addr add " + on_loopback);  // answers the next SYN, a second later
  UniqueFd listener = ListenAt(lab_->server, At(address.c_str()));
  UniqueFd server = Accept(listener);
  ASSERT_TRUE(server);
  EXPECT_EQ(ReadEnd(server, 100), 0);
  ASSERT_TRUE(SendPattern(server.get(), 50));
  EXPECT_TRUE(ReadPattern(client.get(), 50));
  lab_->server.Sh("ip addr del " + on_loopback);
}

TEST_P(RelayEnd, ResetsIdleAndHalfClosedSessionsInTime) {
  options_.idle_ms = 300;
  options_.half_closed_ms = 900;
  Restart();
  Pair idle = Open();
  EXPECT_EQ(ReadEnd(idle.client, 0), -ECONNRESET);
  EXPECT_EQ(ReadEnd(idle.server, 0), -ECONNRESET);
  EXPECT_EQ(Count(TPX_C_CLOSED_IDLE), 1u);

  Pair half = Open();
  shutdown(half.client.get(), SHUT_WR);
  EXPECT_EQ(ReadEnd(half.server, 0), 0);
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  ASSERT_TRUE(SendPattern(half.server.get(), 10)) << "lives longer than an idle one";
  EXPECT_TRUE(ReadPattern(half.client.get(), 10));
  EXPECT_EQ(End(half.client), -ECONNRESET);
  EXPECT_EQ(Count(TPX_C_CLOSED_HALF_IDLE), 1u);
}

}  // namespace
}  // namespace tpx::data
