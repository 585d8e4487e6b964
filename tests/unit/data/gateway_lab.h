// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>
#include <pthread.h>
#include <sys/mman.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "tpx/base/address.h"
#include "tpx/base/unique_fd.h"
#include "tpx/data/worker.h"

namespace tpx::data {

// A network namespace that lives as long as this object.
class NetNs {
 public:
  NetNs();
  // Runs `work` on a thread inside; sockets made there stay there.
  void Do(const std::function<void()>& work) const;
  void Sh(const std::string& commands) const;  // fails the test when one fails
  std::string path() const;                    // for `ip link ... netns`

 private:
  UniqueFd fd_;
};

// client -- gateway -- server, without BPF: the gateway delivers everything
// that arrives to itself, so a connection to the worker's own port at any
// address is proxied to that port of that address. Servers are reached with
// the worker's mark only.
class GatewayLab {
 public:
  static constexpr uint32_t kMark = 0x40000000;
  static bool Permitted();
  GatewayLab();

  NetNs client, gateway, server;
};

struct Family {
  const char* name;
  const char* client;
  const char* gateway;  // its address on the server's side
  const char* server;
  const char* no_service;   // refuses
  const char* black_hole;   // swallows
  const char* unreachable;  // no route
};
extern const Family kFamilies[2];

// A plain blocking socket with a time limit on every call.
UniqueFd ListenAt(const NetNs& ns, const Endpoint& at);
UniqueFd ConnectTo(const NetNs& ns, const Endpoint& to, int hops = 0);  // empty: failed, errno says why
UniqueFd Accept(const UniqueFd& listener, Endpoint* peer = nullptr);
UniqueFd OpenSocket(const NetNs& ns, const Endpoint& like);
bool Connect(const UniqueFd& fd, const Endpoint& to);

// Streams of numbered bytes: a byte lost, doubled or out of order is seen.
bool SendPattern(int fd, size_t length, size_t offset = 0);
bool ReadPattern(int fd, size_t length, size_t offset = 0);
// Reads until something else than bytes: 0 at FIN, or -errno. Adds to *total.
int ReadToEnd(int fd, size_t* total);
int End(const UniqueFd& fd);  // the same, however much comes
void ResetOnClose(int fd);    // and then closing sends RST
size_t Scaled(size_t bytes);  // by TPX_TEST_SCALE

class WorkerTest : public testing::TestWithParam<Family> {
 protected:
  static void SetUpTestSuite();
  static void TearDownTestSuite();
  void SetUp() override;
  void TearDown() override;

  void StartWorker();  // with options_
  void StopWorker();
  void Restart();
  void Select(tpx_listener listener);  // of connections from now on

  uint64_t Count(tpx_worker_counter counter);
  uint64_t Resets() { return Count(TPX_C_CLOSED_CLIENT_RESET) + Count(TPX_C_CLOSED_SERVER_RESET); }
  // Waits up to 5 s.
  bool Eventually(const std::function<bool()>& condition);
  bool CountBecomes(tpx_worker_counter counter, uint64_t value);
  uint32_t State();
  Endpoint At(const char* address) const;  // at the worker's port
  Endpoint Server() const { return At(GetParam().server); }

  struct Pair {
    UniqueFd client, server;
  };
  Pair Open();  // a proxied connection, established on both sides

  static std::unique_ptr<GatewayLab> lab_;
  tpx_worker slot_{};
  UniqueFd conntrack_count_{memfd_create("count", MFD_CLOEXEC)};  // stands for nf_conntrack_count
  struct NoDecisions final : DecisionSource {                     // there is no kernel side
    std::optional<tpx_verdict> Find(const tpx_flow&) override { return std::nullopt; }
    bool IsGateway(const IpAddr&) override { return false; }
    uint32_t UdpEnded() override { return 0; }
    void NoteOriginal(int, const Endpoint&, const Endpoint&) override {}
  } decisions_;
  struct NoTranslations final : TranslationMap {
    bool Forwards(tpx_forward) override { return false; }
    bool Store(const tpx_flow&, const tpx_translation&) override { return false; }
    std::optional<tpx_translation> Find(const tpx_flow&) override { return std::nullopt; }
    void Erase(const tpx_flow&) override {}
  } translations_;
  IcmpBudget icmp_budget_;
  WorkerOptions options_{.max_sessions = 4096,
                         .max_pipes = 16,
                         .max_udp_sessions = 16,
                         .max_udp_sessions_per_client = 16,
                         .max_udp_reply_sockets = 16,
                         .max_descriptors = 2 * 4096 + 16,
                         .own_mark = GatewayLab::kMark,
                         .connect_ms = 3000,
                         .idle_ms = 60'000,
                         .half_closed_ms = 60'000,
                         .drain_ms = 10'000,
                         .lease_ms = 1000,
                         .keepalive_idle_s = 60,
                         .keepalive_interval_s = 10,
                         .keepalive_count = 3,
                         .shared = &slot_,
                         .conntrack_count_fd = conntrack_count_.get(),
                         .decisions = &decisions_,
                         .translations = &translations_,
                         .upstreams = {},
                         .affinities = {},
                         .icmp_budget = &icmp_budget_};
  std::unique_ptr<Worker> worker_;
  UniqueFd listener_;  // of the server
  std::thread thread_;
  std::atomic<pthread_t> worker_thread_{};  // while it runs
  std::atomic<bool> finished_{false};
};

std::string FamilyName(const testing::TestParamInfo<Family>& info);

}  // namespace tpx::data
