// SPDX-License-Identifier: Apache-2.0
#include "tpx/data/udp_affinity.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace tpx::data {
namespace {

class UdpAffinityTest : public ::testing::TestWithParam<const char*> {
 protected:
  UdpAffinityTest() { slot_.Claim(); }

  static Endpoint Client(uint16_t port) { return {.addr = *IpAddr::Parse(GetParam()), .port = port}; }
  __u64& WordOf(const Endpoint& client) {
    const uint64_t hash = tpx_hash_of_end(&client.addr.raw, htons(client.port));
    return affinities_[hash % TPX_AFFINITIES].word;
  }
  static uint64_t Word(uint32_t worker, uint32_t sessions, uint32_t seen = 0) {
    return tpx_affinity_word(worker, sessions, seen);
  }

  std::vector<tpx_affinity> affinities_{TPX_AFFINITIES};
  tpx_worker shared_{};
  SharedSlot slot_{&shared_};
  UdpAffinity first_{1, affinities_, slot_}, second_{2, affinities_, slot_};
};
INSTANTIATE_TEST_SUITE_P(Families, UdpAffinityTest, ::testing::Values("192.0.2.2", "2001:db8::2"),
                         [](const auto& address) { return address.index == 0 ? "V4" : "V6"; });

TEST_P(UdpAffinityTest, TheFirstSessionOfAnEndpointDecides) {
  const Endpoint client = Client(40000);
  WordOf(client) = Word(3, 0, 77);
  first_.Enter(client);
  EXPECT_EQ(WordOf(client), Word(1, 1, 77));
  second_.Enter(client);
  EXPECT_EQ(WordOf(client), Word(1, 2, 77));
  EXPECT_EQ(WordOf(Client(40001)), 0U);
}

TEST_P(UdpAffinityTest, TheLastSessionLeavesItToTheNext) {
  const Endpoint client = Client(40000);
  first_.Enter(client);
  second_.Enter(client);
  first_.Leave(client);
  EXPECT_EQ(WordOf(client), Word(1, 1)) << "tc may not choose another one yet";
  second_.Leave(client);
  EXPECT_EQ(WordOf(client), Word(1, 0));
  second_.Enter(client);
  EXPECT_EQ(WordOf(client), Word(2, 1));
}

TEST_P(UdpAffinityTest, WhatAnotherProcessHasClearedStaysAtNone) {
  first_.Leave(Client(40000));
  EXPECT_EQ(tpx_affinity_sessions(WordOf(Client(40000))), 0U);
}

TEST_P(UdpAffinityTest, AfterASuccessorHasCounted) {
  const Endpoint client = Client(40000);
  first_.Enter(client);
  WordOf(client) = Word(5, 3);
  shared_.pid ^= 1;
  slot_.RenewLease(1);
  first_.Leave(client);
  first_.Enter(client);
  EXPECT_EQ(WordOf(client), Word(5, 3));
}

TEST_P(UdpAffinityTest, NothingToWriteTo) {
  UdpAffinity nowhere(1, {}, slot_);
  nowhere.Enter(Client(1));
  nowhere.Leave(Client(1));
}

TEST_P(UdpAffinityTest, WorkersAtTheSameTimeLoseNoSession) {
  constexpr int kTimes = 100'000;
  const Endpoint client = Client(40000);
  auto come_and_go = [&](UdpAffinity& affinity) {
    for (int i = 0; i < kTimes; ++i) affinity.Enter(client);
    for (int i = 1; i < kTimes; ++i) affinity.Leave(client);
  };
  std::thread other(come_and_go, std::ref(second_));
  come_and_go(first_);
  other.join();
  EXPECT_EQ(tpx_affinity_sessions(WordOf(client)), 2U);
}

}  // namespace
}  // namespace tpx::data
