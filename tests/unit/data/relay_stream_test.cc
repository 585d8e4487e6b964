// SPDX-License-Identifier: Apache-2.0
// What the relay does to bytes: nothing.
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <fstream>
#include <string>
#include <thread>

#include "tpx/sys/socket.h"
#include "unit/data/gateway_lab.h"

namespace tpx::data {
namespace {

using RelayStream = WorkerTest;
INSTANTIATE_TEST_SUITE_P(Families, RelayStream, testing::ValuesIn(kFamilies), FamilyName);

size_t ResidentBytes() {
  size_t size = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> size >> resident;
  return resident * 4096;
}

TEST_P(RelayStream, CarriesSmallMessagesBothWays) {
  Pair pair = Open();
  for (size_t i = 0; i < 50; ++i) {
    ASSERT_TRUE(SendPattern(pair.client.get(), 100, 100 * i));
    ASSERT_TRUE(ReadPattern(pair.server.get(), 100, 100 * i));
    ASSERT_TRUE(SendPattern(pair.server.get(), 1000, 1000 * i));
    ASSERT_TRUE(ReadPattern(pair.client.get(), 1000, 1000 * i));
  }
  EXPECT_TRUE(CountBecomes(TPX_C_BYTES_UP, 5000));
  EXPECT_TRUE(CountBecomes(TPX_C_BYTES_DOWN, 50000));
  EXPECT_EQ(Count(TPX_C_PIPES), 0u);
}

TEST_P(RelayStream, LetsTheServerSpeakFirst) {
  Pair pair = Open();
  ASSERT_TRUE(SendPattern(pair.server.get(), 30));
  EXPECT_TRUE(ReadPattern(pair.client.get(), 30));
}

TEST_P(RelayStream, CarriesBulkBothWaysAtOnce) {
  const size_t size = Scaled(64 << 20);
  Pair pair = Open();
  std::thread up([&] {
    EXPECT_TRUE(SendPattern(pair.client.get(), size));
    shutdown(pair.client.get(), SHUT_WR);
  });
  std::thread down([&] {
    EXPECT_TRUE(SendPattern(pair.server.get(), size));
    shutdown(pair.server.get(), SHUT_WR);
  });
  size_t down_bytes = 0;
  std::thread down_reader([&] { EXPECT_EQ(ReadToEnd(pair.client.get(), &down_bytes), 0); });
  size_t up_bytes = 0;
  EXPECT_EQ(ReadToEnd(pair.server.get(), &up_bytes), 0);
  for (std::thread* t : {&up, &down, &down_reader}) t->join();
  EXPECT_EQ(up_bytes, size);
  EXPECT_EQ(down_bytes, size);
  EXPECT_TRUE(CountBecomes(TPX_C_CLOSED_CLEAN, 1));
  EXPECT_EQ(Count(TPX_C_BYTES_UP), size);
  EXPECT_EQ(Count(TPX_C_BYTES_DOWN), size);
  EXPECT_GT(Count(TPX_C_BYTES_SPLICED), size) << "bulk goes through pipes";
}

TEST_P(RelayStream, LosesNoByteAroundTheSwitchToPipes) {
  for (size_t length : {0, 1, 65535, 65536, 65537, 131071, 131072, 131073, 200001, 1048576, 1048577}) {
    for (bool in_pieces : {false, true}) {
      Pair pair = Open();
      std::thread sender([&] {
        const size_t first = in_pieces ? length / 3 : 0;
        EXPECT_TRUE(SendPattern(pair.client.get(), first));
        if (in_pieces) std::this_thread::sleep_for(std::chrono::milliseconds(2));
        EXPECT_TRUE(SendPattern(pair.client.get(), length - first, first));
        shutdown(pair.client.get(), SHUT_WR);
      });
      size_t got = 0;
      EXPECT_EQ(ReadToEnd(pair.server.get(), &got), 0);
      EXPECT_EQ(got, length);
      ASSERT_TRUE(SendPattern(pair.server.get(), got));
      shutdown(pair.server.get(), SHUT_WR);
      size_t back = 0;
      EXPECT_EQ(ReadToEnd(pair.client.get(), &back), 0);
      EXPECT_EQ(back, length);
      sender.join();
    }
  }
  EXPECT_TRUE(CountBecomes(TPX_C_CLOSED_CLEAN, 22));
}

TEST_P(RelayStream, StopsTheSenderOfASlowReader) {
  constexpr size_t kSize = 48 << 20;
  Pair pair = Open();
  const size_t before = ResidentBytes();
  std::thread sender([&] {
    EXPECT_TRUE(SendPattern(pair.server.get(), kSize));
    shutdown(pair.server.get(), SHUT_WR);
  });
  uint64_t seen = UINT64_MAX;
  ASSERT_TRUE(Eventually([&] {  // nothing has moved for a while
    const uint64_t now = Count(TPX_C_BYTES_DOWN);
    const bool stopped = now == seen && now > 0;
    seen = now;
    std::this_thread::sleep_for(std::chrono::milliseconds(150));
    return stopped;
  }));
  EXPECT_LT(seen, kSize / 2);
  EXPECT_LT(ResidentBytes(), before + (8 << 20));
  size_t got = 0;
  EXPECT_EQ(ReadToEnd(pair.client.get(), &got), 0);
  EXPECT_EQ(got, kSize);
  sender.join();
}

// A stream that had a pause, as on a busy machine, may have stalled before it was worth a pipe.
TEST_P(RelayStream, CopiesWhenThereIsNoPipe) {
  constexpr size_t kSize = 12 << 20, kMost = 64;
  std::vector<Pair> stalled;
  std::vector<std::thread> senders;
  auto is_short = [&] { return Count(TPX_C_PIPES) == 16 && Count(TPX_C_PIPES_SHORT) > 0; };
  while (stalled.size() < kMost && !is_short()) {
    stalled.push_back(Open());
    senders.emplace_back([fd = stalled.back().server.get()] { EXPECT_TRUE(SendPattern(fd, kSize)); });
    if (stalled.size() > 16) std::this_thread::sleep_for(std::chrono::milliseconds(200));
  }
  EXPECT_TRUE(is_short());
  for (Pair& p : stalled) EXPECT_TRUE(ReadPattern(p.client.get(), kSize));
  for (std::thread& t : senders) t.join();
}

TEST_P(RelayStream, KeepsUrgentBytesInTheStream) {
  Pair pair = Open();
  for (size_t size : {100, 3 << 20}) {  // copied and spliced
    std::thread sender([&] {
      EXPECT_TRUE(SendPattern(pair.client.get(), size));
      EXPECT_EQ(send(pair.client.get(), "!", 1, MSG_OOB), 1);
      EXPECT_TRUE(SendPattern(pair.client.get(), size));
    });
    EXPECT_TRUE(ReadPattern(pair.server.get(), size));
    char urgent = 0;
    EXPECT_EQ(recv(pair.server.get(), &urgent, 1, 0), 1);
    EXPECT_EQ(urgent, '!');
    EXPECT_TRUE(ReadPattern(pair.server.get(), size));
    sender.join();
  }
}

TEST_P(RelayStream, ShowsTheServerTheGatewayOrTheClient) {
  Endpoint seen;
  UniqueFd masqueraded = ConnectTo(lab_->client, Server());
  UniqueFd at_server = Accept(listener_, &seen);
  EXPECT_EQ(seen.addr.ToString(), GetParam().gateway);

  Select(TPX_LISTENER_TCP_PRESERVE);
  UniqueFd preserved = ConnectTo(lab_->client, Server());
  ASSERT_TRUE(preserved);
  at_server = Accept(listener_, &seen);
  Endpoint client;
  ASSERT_EQ(sys::OriginalDestination(preserved.get(), client), 0);
  EXPECT_EQ(seen, client) << "address and port";
  ASSERT_TRUE(SendPattern(at_server.get(), 100));
  EXPECT_TRUE(ReadPattern(preserved.get(), 100));
  EXPECT_EQ(Count(TPX_C_PORT_CHANGED), 0u);
}

TEST_P(RelayStream, PicksAnotherPortWhereTheClientsOwnCannotBeUsed) {
  Select(TPX_LISTENER_TCP_PRESERVE);
  ASSERT_EQ(pwrite(conntrack_count_.get(), "1\n", 2, 0), 2);
  Endpoint seen, client;
  UniqueFd preserved = ConnectTo(lab_->client, Server());
  ASSERT_TRUE(preserved);
  UniqueFd at_server = Accept(listener_, &seen);
  ASSERT_EQ(sys::OriginalDestination(preserved.get(), client), 0);
  EXPECT_EQ(seen.addr, client.addr);
  EXPECT_NE(seen.port, client.port);
  EXPECT_EQ(Count(TPX_C_PORT_CHANGED), 1u);
}

TEST_P(RelayStream, CostsOneHop) {
  for (tpx_listener mode : {TPX_LISTENER_TCP_MASQUERADE, TPX_LISTENER_TCP_PRESERVE}) {
    Select(mode);
    UniqueFd client = ConnectTo(lab_->client, Server(), 33);
    ASSERT_TRUE(client);
    UniqueFd at_server = Accept(listener_);
    ASSERT_TRUE(at_server);
    EXPECT_EQ(sys::SynHopLimit(at_server.get()), 32);
  }
  UniqueFd last_hop = ConnectTo(lab_->client, Server(), 1);
  size_t none = 0;
  EXPECT_TRUE(!last_hop || ReadToEnd(last_hop.get(), &none) == -ECONNRESET);
  EXPECT_EQ(Count(TPX_C_HOPS_EXCEEDED), 1u);
}

TEST_P(RelayStream, RefusesToDialItself) {
  UniqueFd client = ConnectTo(lab_->client, At(GetParam().gateway));
  size_t none = 0;
  EXPECT_TRUE(!client || ReadToEnd(client.get(), &none) == -ECONNRESET);
  EXPECT_TRUE(CountBecomes(TPX_C_LOOP_REFUSED, 1));
  EXPECT_LE(Count(TPX_C_SESSIONS_TOTAL), 1u) << "the loop ends after one turn";
}

}  // namespace
}  // namespace tpx::data
