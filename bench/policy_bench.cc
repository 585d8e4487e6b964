// SPDX-License-Identifier: Apache-2.0
// What a set of a million prefixes costs: reading and compiling it, filling the
// kernel's maps, and a packet's way through it. The time of packets is the
// kernel's own (BPF_PROG_TEST_RUN).
#include <arpa/inet.h>
#include <benchmark/benchmark.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "support/check.h"
#include "support/connection.h"
#include "support/packet.h"
#include "support/prog_runner.h"
#include "tpx/policy/prefix_list.h"

namespace tpx::test {
namespace {

constexpr size_t kV4 = 1'000'000, kV6 = 200'000, kFew = 10;

// As lists of networks and of hosts together have them; few of /32 in IPv6.
size_t LengthOf(std::mt19937_64& random, bool v4) {
  constexpr size_t kV4Lengths[] = {16, 18, 19, 20, 21, 22, 22, 23, 23, 24, 24, 24,
                                   24, 24, 24, 24, 24, 24, 28, 29, 30, 32, 32, 32};
  constexpr size_t kV6Lengths[] = {32, 40, 44, 48, 48, 48, 48, 56, 64, 64, 128};
  return v4 ? kV4Lengths[random() % std::size(kV4Lengths)] : kV6Lengths[random() % std::size(kV6Lengths)];
}

// Anywhere in the unicast space of the family.
IpAddr AddressOf(std::mt19937_64& random, bool v4) {
  auto word = [&random] { return static_cast<uint32_t>(random()); };
  if (v4) return {.raw = {{0, 0, htonl(0xffff), htonl((1u << 24) + word() % (223u << 24))}}};
  return {.raw = {{htonl(0x20000000 | word() >> 3), htonl(word()), htonl(word()), htonl(word())}}};
}

Prefix Masked(const IpAddr& addr, size_t length) {
  Prefix prefix{addr, static_cast<uint8_t>(length + (addr.is_v4() ? 96 : 0))};
  auto* bytes = reinterpret_cast<uint8_t*>(&prefix.addr.raw);
  for (size_t bit = prefix.length; bit < 128; ++bit)
    bytes[bit / 8] &= static_cast<uint8_t>(~(0x80 >> bit % 8));
  return prefix;
}

std::vector<Prefix> MakePrefixes(size_t v4, size_t v6) {
  std::mt19937_64 random(1);
  std::vector<Prefix> prefixes;
  for (size_t i = 0; i < v4 + v6; ++i) {
    const bool is_v4 = i < v4;
    prefixes.push_back(Masked(AddressOf(random, is_v4), LengthOf(random, is_v4)));
  }
  return prefixes;
}

std::string MakeList() {
  std::string text;
  policy::AppendPrefixList(MakePrefixes(kV4, kV6), text);
  return text;
}

std::vector<Prefix> ReadList(const std::string& text) {
  const policy::PrefixListReader reader{.on_error = [](int, int, const std::string&) { return false; }};
  std::vector<Prefix> prefixes = policy::ParsePrefixList(text, TPX_MAX_PREFIXES, reader);
  policy::MergePrefixes(prefixes);
  return prefixes;
}

// Both verdicts are to leave the packet alone, so that they take equally long.
policy::Policy PolicyOf(std::vector<Prefix> prefixes) {
  return {{{.name = "listed", .dst = std::move(prefixes)}, {.name = "default"}}};
}

void BM_Read(benchmark::State& state) {
  const std::string text = MakeList();
  for (auto _ : state) benchmark::DoNotOptimize(ReadList(text));
}
BENCHMARK(BM_Read)->Unit(benchmark::kMillisecond);

void BM_Compile(benchmark::State& state) {
  const policy::Policy policy = PolicyOf(ReadList(MakeList()));
  size_t pages = 0;
  for (auto _ : state) pages = policy::Compile(policy)->pages[TPX_DIM_DST].size();
  state.counters["pages_MiB"] = static_cast<double>(pages * sizeof(tpx_page)) / (1 << 20);
}
BENCHMARK(BM_Compile)->Unit(benchmark::kMillisecond);

void BM_Publish(benchmark::State& state, ProgRunner& runner) {
  const auto compiled = policy::Compile(PolicyOf(ReadList(MakeList())));
  for (auto _ : state) {
    const uint32_t next = runner.generation() + 1;
    runner.Fill(*compiled, next);
    runner.Flip(next);
  }
}

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<long>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

// The same with a few prefixes and with all. Both generations are in place and take turns, so that what else
// runs on the machine hits both.
void CompareWithFew(benchmark::State& state, ProgRunner& runner, bool v4,
                    const std::function<double(uint32_t generation)>& measure) {
  const auto few = policy::Compile(PolicyOf(MakePrefixes(v4 ? kFew : 0, v4 ? 0 : kFew)));
  const auto many = policy::Compile(PolicyOf(ReadList(MakeList())));
  const uint32_t generation = runner.generation() + 1;
  runner.Fill(*few, generation);
  runner.Flip(generation);
  runner.Fill(*many, generation + 1);
  std::vector<double> times_few, more;
  for (auto _ : state) {
    times_few.push_back(measure(generation));
    const double with_many = measure(generation + 1);
    more.push_back(with_many - times_few.back());
    state.SetIterationTime(with_many * 1e-9);
  }
  state.counters["with_10_prefixes_ns"] = Median(times_few);
  state.counters["more_ns"] = Median(more);
}

// The first packet of a flow, to one address again and again or each to another: a system call each, so that
// whatever the packet's way touches has left the nearest caches and the TLB.
void BM_FirstPacket(benchmark::State& state, ProgRunner& runner, bool v4, bool spread) {
  std::mt19937_64 random(2);
  std::vector<Bytes> frames(spread ? 20'000 : 1);
  for (Bytes& frame : frames) {
    const IpAddr client = *IpAddr::Parse(v4 ? "192.0.2.2" : "2001:db8:1::2");
    frame = Packet().Ip(client, AddressOf(random, v4)).Tcp(40000, 443).Syn().Build();
  }
  CompareWithFew(state, runner, v4, [&](uint32_t generation) {
    runner.Flip(generation);
    std::vector<double> times;
    for (const Bytes& frame : frames) times.push_back(runner.Time(Hook::kLan, frame, spread ? 1 : 100'000));
    return Median(times);
  });
}

// bench/lookup.bpf.c over the runner's maps.
class LookupLoop {
 public:
  explicit LookupLoop(const ProgRunner& runner) : object_(bpf_object__open_file(TPX_LOOKUP_OBJECT, nullptr)) {
    TPX_PCHECK(object_ != nullptr);
    bpf_map* map = nullptr;
    bpf_object__for_each_map(map, object_) {
      const std::string name = bpf_map__name(map);
      if (name.rfind("tpx_", 0) != 0) continue;
      TPX_PCHECK(bpf_map__reuse_fd(map, runner.map_fd(name.c_str())) == 0);
    }
    TPX_PCHECK(bpf_object__load(object_) == 0);
    program_ = bpf_program__fd(bpf_object__find_program_by_name(object_, "look_up_many"));
  }
  ~LookupLoop() { bpf_object__close(object_); }
  LookupLoop(const LookupLoop&) = delete;
  LookupLoop& operator=(const LookupLoop&) = delete;

  // Nanoseconds for one of a million random addresses, in the mean.
  double Time(uint32_t generation, bool v4) {
    run_ = {.generation = generation, .count = 1'000'000, .v4 = v4, .random = run_.random, .ns = 0};
    bpf_test_run_opts options{};
    options.sz = sizeof(options);
    options.ctx_in = &run_;  // the kernel gives it back
    options.ctx_size_in = sizeof(run_);
    TPX_PCHECK(bpf_prog_test_run_opts(program_, &options) == 0);
    return static_cast<double>(run_.ns) / run_.count;
  }

 private:
  struct {
    uint32_t generation, count;
    uint64_t v4, random, ns;
  } run_{.generation = 0, .count = 0, .v4 = 0, .random = 1, .ns = 0};
  bpf_object* object_;
  int program_ = -1;
};

// A packet of a connection whose socket is here.
void BM_KnownFlow(benchmark::State& state, ProgRunner& runner, bool v4) {
  const IpAddr client = *IpAddr::Parse(v4 ? "192.0.2.2" : "2001:db8:1::2");
  const IpAddr server = *IpAddr::Parse(v4 ? "198.51.100.2" : "2001:db8:2::2");
  Connection connection({client, 0}, {server, 443});
  const Bytes frame = Packet().Ip(client, server).Tcp(connection.client().port, 443).Ack().Build();
  CompareWithFew(state, runner, v4, [&](uint32_t generation) {
    runner.Flip(generation);
    return runner.Time(Hook::kLan, frame, 100'000);
  });
  connection.Abort();
}

void BM_Lookup(benchmark::State& state, ProgRunner& runner, bool v4) {
  LookupLoop loop(runner);
  CompareWithFew(state, runner, v4, [&](uint32_t generation) { return loop.Time(generation, v4); });
}

}  // namespace
}  // namespace tpx::test

int main(int argc, char** argv) {
  using namespace tpx::test;
  benchmark::Initialize(&argc, argv);
  if (!ProgRunner::Privileged()) {
    std::fprintf(stderr, "policy_bench: needs root to load BPF programs\n");
    return 1;
  }
  ProgRunner runner;
  benchmark::RegisterBenchmark("BM_Publish", [&](benchmark::State& state) {
    BM_Publish(state, runner);
  })->Unit(benchmark::kMillisecond);
  auto add = [](const std::string& name, auto run) {
    benchmark::RegisterBenchmark(name.c_str(), run)
        ->UseManualTime()
        ->Iterations(15)
        ->Unit(benchmark::kNanosecond);
  };
  for (const bool v4 : {true, false}) {
    const std::string family = v4 ? "v4" : "v6";
    add("lookup/" + family, [&, v4](benchmark::State& state) { BM_Lookup(state, runner, v4); });
    add("known_flow/" + family, [&, v4](benchmark::State& state) { BM_KnownFlow(state, runner, v4); });
    for (const bool spread : {false, true}) {
      add("first_packet/" + family + (spread ? "/many_addresses" : "/one_address"),
          [&, v4, spread](benchmark::State& state) { BM_FirstPacket(state, runner, v4, spread); });
    }
  }
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
