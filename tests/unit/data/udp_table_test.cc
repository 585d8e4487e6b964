// SPDX-License-Identifier: Apache-2.0
#include "tpx/data/udp_table.h"

#include <gtest/gtest.h>

#include <random>
#include <set>
#include <utility>

namespace tpx::data {
namespace {

UdpKey Key(int client, uint16_t port, uint16_t destination_port = 0) {
  UdpKey key{.client = {*IpAddr::Parse("192.0.2." + std::to_string(client)), port}, .destination = {}};
  if (destination_port == 0) return key;
  key.listener = TPX_LISTENER_UDP_PAIR;
  key.destination = {*IpAddr::Parse("198.51.100.2"), destination_port};
  return key;
}

void End(UdpTable& table, UdpSession* session) {
  table.Close(*session);
  table.Free(*session);
}

constexpr UdpLimits kLimits{
    .sessions = 4, .sessions_per_client = 2, .one_way_ms = 1000, .answered_ms = 2000, .stream_ms = 5000};

TEST(UdpTable, FindsSessionsByTheirWholeKey) {
  UdpTable table(kLimits);
  UdpSession* cone = table.Open(Key(1, 1000), false, 0);
  UdpSession* pair = table.Open(Key(1, 1000, 53), false, 0);
  EXPECT_EQ(table.Find(Key(1, 1000)), cone);
  EXPECT_EQ(table.Find(Key(1, 1000, 53)), pair);
  EXPECT_EQ(table.Find(Key(1, 1000, 54)), nullptr);
  EXPECT_EQ(table.Find(Key(1, 1001)), nullptr);
  UdpKey preserved = Key(1, 1000);
  preserved.listener = TPX_LISTENER_UDP_PRESERVE;
  EXPECT_EQ(table.Find(preserved), nullptr);
  End(table, cone);
  EXPECT_EQ(table.Find(Key(1, 1000)), nullptr);
  EXPECT_EQ(table.FindByIndex(pair->index, pair->generation), pair);
}

TEST(UdpTable, PortsOfItsOwnAreALimitByThemselves) {
  UdpLimits limits = kLimits;
  limits.sessions = 8;
  limits.masqueraded = 2;
  UdpTable table(limits);
  const IpAddr newcomer = *IpAddr::Parse("192.0.2.9");
  table.Open(Key(1, 1), true, 0);
  UdpSession* older = table.Open(Key(2, 1), false, 1);
  EXPECT_EQ(table.Victim(newcomer, false), nullptr);
  UdpSession* younger = table.Open(Key(3, 1), false, 2);
  EXPECT_EQ(table.Victim(newcomer, false), older) << "the oldest of all has no such port to give";
  EXPECT_EQ(table.Victim(newcomer, true), nullptr);
  End(table, older);
  EXPECT_EQ(table.Victim(newcomer, false), nullptr);
  for (UdpSession* s : {younger, table.Open(Key(4, 1), false, 3)}) {
    s->down = 1;
    table.Touch(*s, 4);
  }
  EXPECT_EQ(table.Victim(newcomer, false), younger) << "one that is answered, where the others are preserved";
}

TEST(UdpTable, AgesByClass) {
  UdpTable table(kLimits);
  UdpSession* one_way = table.Open(Key(1, 1), false, 0);
  UdpSession* dns = table.Open(Key(2, 2, 53), false, 0);
  dns->target = dns->key.destination;
  UdpSession* stream = table.Open(Key(3, 3), false, 0);
  dns->up = dns->down = 1;
  table.Touch(*dns, 0);
  stream->up = 9, stream->down = 9;
  table.Touch(*stream, 0);
  EXPECT_EQ(table.NextExpiry(), 1000u);
  EXPECT_EQ(table.Expired(999), nullptr);
  EXPECT_EQ(table.Expired(1000), one_way);
  End(table, one_way);
  EXPECT_EQ(table.Expired(2000), dns);
  dns->up = 20, dns->down = 20;  // a stream on port 53
  table.Touch(*dns, 100);
  EXPECT_EQ(table.Expired(4999), nullptr);
  EXPECT_EQ(table.Expired(5000), stream);
  End(table, stream);
  EXPECT_EQ(table.Expired(5100), dns);
  End(table, dns);
  EXPECT_EQ(table.NextExpiry(), DeadlineList::kNever);
}

TEST(UdpTable, AClientAtItsLimitReplacesItsOwnLeastRecentlyUsed) {
  UdpTable table(kLimits);
  UdpSession* first = table.Open(Key(1, 1), false, 0);
  EXPECT_EQ(table.Victim(*IpAddr::Parse("192.0.2.1"), false), nullptr);
  UdpSession* second = table.Open(Key(1, 2), false, 0);
  EXPECT_EQ(table.Victim(*IpAddr::Parse("192.0.2.1"), false), first);
  table.Touch(*first, 1);
  EXPECT_EQ(table.Victim(*IpAddr::Parse("192.0.2.1"), false), second);
  EXPECT_EQ(table.Victim(*IpAddr::Parse("192.0.2.2"), false), nullptr) << "others have room";
}

TEST(UdpTable, AFullTableGivesUpTheOldestUnansweredSessionFirst) {
  UdpLimits limits = kLimits;
  limits.sessions = 18;
  UdpTable table(limits);
  UdpSession* answered = table.Open(Key(1, 1), false, 0);
  answered->up = answered->down = 5;
  table.Touch(*answered, 0);
  for (int client = 2; client <= 18; ++client) table.Open(Key(client, 1), false, 10u * client);
  EXPECT_EQ(table.Victim(*IpAddr::Parse("192.0.2.99"), false), table.Find(Key(2, 1)));
  for (int client = 2; client <= 18; ++client) {
    UdpSession* s = table.Find(Key(client, 1));
    s->up = s->down = 5;
    table.Touch(*s, 200);
  }
  EXPECT_EQ(table.Victim(*IpAddr::Parse("192.0.2.99"), false), answered)
      << "where all are answered, the oldest";
}

TEST(UdpTable, AFullTableLeavesAFewTheTimeToBeAnswered) {
  UdpTable table({.sessions = 160,
                  .sessions_per_client = 160,
                  .one_way_ms = 1000,
                  .answered_ms = 2000,
                  .stream_ms = 5000});
  for (uint16_t port = 1; port <= 140; ++port) {
    UdpSession* s = table.Open(Key(1, port), false, port);
    s->up = s->down = 5;
    table.Touch(*s, port);
  }
  for (uint16_t port = 141; port <= 160; ++port) table.Open(Key(1, port), false, 200);
  const IpAddr newcomer = *IpAddr::Parse("192.0.2.9");
  EXPECT_EQ(table.Victim(newcomer, false), table.Find(Key(1, 1))) << "an eighth waits for answers";
  End(table, table.Find(Key(1, 1)));
  table.Open(Key(2, 1), false, 201);
  EXPECT_EQ(table.Victim(newcomer, false), table.Find(Key(1, 141))) << "more than an eighth";
}

TEST(UdpTable, AFewThatWaitAreNoFlood) {
  UdpLimits limits = kLimits;
  limits.sessions = 18;
  UdpTable table(limits);
  for (int client = 1; client <= 16; ++client) table.Open(Key(client, 1), false, 1);
  for (int client : {17, 18}) {
    UdpSession* s = table.Open(Key(client, 1), false, 2);
    s->up = s->down = 5;
    table.Touch(*s, 2);
  }
  const IpAddr newcomer = *IpAddr::Parse("192.0.2.99");
  EXPECT_EQ(table.Victim(newcomer, false), table.Find(Key(17, 1)));
  End(table, table.Find(Key(17, 1)));
  table.Open(Key(19, 1), false, 3);
  EXPECT_EQ(table.Victim(newcomer, false), table.Find(Key(1, 1))) << "17 of 18 are";
}

TEST(UdpTable, AnAnswerIsAwaitedForAMoment) {
  UdpTable table(kLimits);
  UdpSession& session = *table.Open(Key(1, 1), false, 1000);
  EXPECT_TRUE(UdpTable::IsAwaited(session, 1000));
  EXPECT_TRUE(UdpTable::IsAwaited(session, 1249));
  EXPECT_FALSE(UdpTable::IsAwaited(session, 1250)) << "there may be none";
  session.down = 1;
  EXPECT_FALSE(UdpTable::IsAwaited(session, 1000));
}

TEST(UdpTable, ABusyClientReplacesItsOwnInAFullTable) {
  UdpLimits limits = kLimits;
  limits.sessions = limits.sessions_per_client = 48;
  for (const bool ports_are_out : {false, true}) {
    if (ports_are_out) limits.masqueraded = std::exchange(limits.sessions, 96);
    for (const int busy : {31, 32}) {
      UdpTable table(limits);
      uint16_t port = 0;
      auto open = [&](int client) {
        ++port;
        UdpSession* s = table.Open(Key(client, port), false, port);
        s->up = s->down = 5;
        table.Touch(*s, port);
        return s;
      };
      UdpSession* oldest = open(2);
      UdpSession* of_the_busy_one = open(1);
      while (port < 1 + busy) open(1);
      while (port < 48) open(3);
      EXPECT_EQ(table.Victim(*IpAddr::Parse("192.0.2.1"), false), busy < 32 ? oldest : of_the_busy_one);
      EXPECT_EQ(table.Victim(*IpAddr::Parse("192.0.2.2"), false), oldest);
      EXPECT_EQ(table.Victim(*IpAddr::Parse("192.0.2.9"), false), oldest) << "it has none";
    }
  }
}

TEST(UdpTable, OneThatHasLittleMoreThanOthersIsNotBusy) {
  UdpTable table({.sessions = 80, .sessions_per_client = 80, .stream_ms = 5000});
  for (uint16_t port = 1; port <= 80; ++port) {
    UdpSession* s = table.Open(Key(port > 39 ? 1 : 2, port), false, port);
    s->up = s->down = 5;
    table.Touch(*s, port);
  }
  EXPECT_EQ(table.Victim(*IpAddr::Parse("192.0.2.1"), false), table.Find(Key(2, 1)));
}

// Against a plain model, with closed sessions that linger.
TEST(UdpTable, KeepsItsBooksThroughRandomTraffic) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  UdpTable table(
      {.sessions = 50, .sessions_per_client = 8, .one_way_ms = 50, .answered_ms = 100, .stream_ms = 200});
  std::set<std::pair<int, uint16_t>> open;
  uint64_t now = 0;
  for (int step = 0; step < 100'000; ++step) {
    now += random() % 3;
    const int client = static_cast<int>(random() % 20) + 1;
    const auto port = static_cast<uint16_t>(random() % 10 + 1);
    const UdpKey key = Key(client, port);
    UdpSession* session = table.Find(key);
    ASSERT_EQ(session != nullptr, open.contains({client, port}));
    if (session == nullptr) {
      if (UdpSession* victim = table.Victim(key.client.addr, false); victim != nullptr) {
        open.erase({victim->key.client.addr.raw.w[3] >> 24, victim->key.client.port});
        End(table, victim);
      }
      session = table.Open(key, false, now);
      ASSERT_NE(session, nullptr);
      open.insert({client, port});
    }
    session->up += session->up < 200;
    session->down += random() % 2;
    table.Touch(*session, now);
    while (UdpSession* gone = table.Expired(now)) {
      open.erase({gone->key.client.addr.raw.w[3] >> 24, gone->key.client.port});
      End(table, gone);
    }
    ASSERT_EQ(table.open(), open.size());
    ASSERT_LE(table.open(), 50u);
  }
}

}  // namespace
}  // namespace tpx::data
