// SPDX-License-Identifier: Apache-2.0
// Nanoseconds that the tc program spends on a packet, by what becomes of it and
// by the size of the policy. The time is the kernel's own (BPF_PROG_TEST_RUN).
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "support/connection.h"
#include "support/packet.h"
#include "support/prog_runner.h"

namespace tpx::test {
namespace {

constexpr uint16_t kPort = 443;

struct Family {
  const char *name, *client, *server, *client_net, *server_net;
};
constexpr Family kV4 = {"v4", "192.0.2.2", "198.51.100.7", "192.0.2.0/24", "198.51.100.0/24"};
constexpr Family kV6 = {"v6", "2001:db8:1::2", "2001:db8:2::7", "2001:db8:1::/48", "2001:db8:2::/48"};

// The i-th of the networks around that of `family`'s servers or clients; their own is never among them.
std::string Network(const Family& family, bool clients, uint32_t i) {
  char text[64];
  if (family.name == kV4.name) {
    const uint32_t j = clients ? i % 200 : i;
    std::snprintf(text, sizeof(text), "%s.%u.%u.0/24", clients ? "192" : "198", clients ? 1 : 48 + j / 256,
                  j % 256);
  } else {
    std::snprintf(text, sizeof(text), "2001:db8:%s%x::/48", clients ? "1" : "2",
                  0x100 + (clients ? i % 200 : i));
  }
  return text;
}

policy::Rule RuleFor(const std::string& src, const std::string& dst, uint16_t port, tpx_action action) {
  policy::Rule rule;
  rule.protocols = {6};
  rule.src = {*Prefix::Parse(src)};
  rule.dst = {*Prefix::Parse(dst)};
  rule.dports = {{port, port}};
  rule.action = action;
  return rule;
}

// `rules` rules with prefixes and ports of their own, the last of which is the
// one that the packets meet; then "bypass everything".
policy::Policy PolicyOfSize(const Family& family, uint32_t rules, tpx_action action) {
  policy::Policy policy;
  for (uint32_t i = 0; i + 1 < rules; ++i) {
    policy.rules.push_back(RuleFor(Network(family, true, i), Network(family, false, i),
                                   static_cast<uint16_t>(1024 + i), TPX_ACTION_DROP));
  }
  policy.rules.push_back(RuleFor(family.client_net, family.server_net, kPort, action));
  policy.rules.push_back({});
  return policy;
}

class Bench {
 public:
  Bench() { runner_.StartWorkers(2); }

  void Run(benchmark::State& state, const std::string& name, const policy::Policy& policy,
           const Bytes& frame) {
    runner_.Publish(policy);
    constexpr uint32_t kPackets = 100'000;
    double best = 1e9;
    for (auto _ : state) {
      double nanoseconds = runner_.Time(Hook::kLan, frame, kPackets);
      best = std::min(best, nanoseconds);
      state.SetIterationTime(nanoseconds * 1e-9);
    }
    best_[name] = best;
  }

  // Of the fastest runs: the others are the machine's noise. The worse family counts.
  void PrintRatio(const char* what, const std::string& flow) const {
    double worst = 0;
    for (const char* family : {kV4.name, kV6.name}) {
      auto many = best_.find(Name(flow, family, 1000)), one = best_.find(Name(flow, family, 1));
      if (many != best_.end() && one != best_.end()) worst = std::max(worst, many->second / one->second);
    }
    if (worst > 0) std::printf("%s, time with 1000 rules over time with 1: %.2f\n", what, worst);
  }

  static std::string Name(const std::string& flow, const std::string& family, uint32_t rules) {
    return flow + "/" + family + "/rules:" + std::to_string(rules);
  }

 private:
  ProgRunner runner_;
  std::map<std::string, double> best_;
};

void Register(Bench& bench, const std::string& name, const policy::Policy& policy, const Packet& packet) {
  benchmark::RegisterBenchmark(name.c_str(),
                               [&bench, name, policy, frame = packet.Build()](benchmark::State& state) {
                                 bench.Run(state, name, policy, frame);
                               })
      ->UseManualTime()
      ->Iterations(15)
      ->Unit(benchmark::kNanosecond);
}

void RegisterFamily(Bench& bench, const Family& family, uint16_t known_port) {
  auto from_client = [&family](uint16_t port) {
    return Packet().Ip(family.client, family.server).Tcp(port, kPort);
  };
  for (uint32_t rules : {1, 1000}) {
    const policy::Policy proxy = PolicyOfSize(family, rules, TPX_ACTION_PROXY);
    Register(bench, Bench::Name("new_flow", family.name, rules), proxy, from_client(40000).Syn());
    Register(bench, Bench::Name("known_flow", family.name, rules), proxy, from_client(known_port).Ack());
    Register(bench, Bench::Name("direct", family.name, rules), proxy, from_client(40001).Ack());
    Register(bench, Bench::Name("drop", family.name, rules), PolicyOfSize(family, rules, TPX_ACTION_DROP),
             from_client(40000).Syn());
  }
}

}  // namespace
}  // namespace tpx::test

int main(int argc, char** argv) {
  using namespace tpx::test;
  benchmark::Initialize(&argc, argv);
  if (!ProgRunner::Privileged()) {
    std::fprintf(stderr, "packet_bench: needs root to load BPF programs\n");
    return 1;
  }
  Bench bench;
  std::vector<std::unique_ptr<Connection>> connections;
  for (const Family& family : {kV4, kV6}) {
    tpx::Endpoint client{*tpx::IpAddr::Parse(family.client), 0},
        server{*tpx::IpAddr::Parse(family.server), kPort};
    connections.push_back(std::make_unique<Connection>(client, server));
    RegisterFamily(bench, family, connections.back()->client().port);
  }
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  bench.PrintRatio("new flow", "new_flow");
  bench.PrintRatio("known flow", "known_flow");
  for (const auto& connection : connections) connection->Abort();
  return 0;
}
