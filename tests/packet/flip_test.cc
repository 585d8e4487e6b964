// SPDX-License-Identifier: Apache-2.0
// Two generations published in turn, by the product's own code on pinned maps, while
// packets run: each packet's verdict and rule are of one of the two, never of a mix.
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "control/publish.h"
#include "support/check.h"
#include "support/packet_fixture.h"
#include "support/scale.h"
#include "tpx/bpf/maps.h"
#include "tpx/bpf/pin_dir.h"

namespace tpx::test {
namespace {

using std::chrono::steady_clock;

// Each flow goes to the proxy by one generation and is dropped by the other. Their
// default, which lets pass, concerns none of them: it is the answer of a mix.
constexpr int kShot = 2, kGoesOn = -1;  // codes of tc
constexpr uint32_t kThreads = 8;        // each waits for packets after its flip

void OnAllCpus() {
  cpu_set_t all;
  CPU_ZERO(&all);
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) CPU_SET(cpu, &all);
  sched_setaffinity(0, sizeof(all), &all);
}

// A directory of pins that nobody else sees, and that goes with the process at the latest.
class ScratchPins {
 public:
  ScratchPins() {
    TPX_PCHECK(mkdtemp(mount_) != nullptr);
    TPX_PCHECK(unshare(CLONE_NEWNS) == 0 && mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0);
    TPX_PCHECK(mount("bpf", mount_, "bpf", 0, nullptr) == 0);
    TPX_CHECK(bpf::CreatePinDir(dir()).ok());
  }
  ~ScratchPins() {
    umount2(mount_, MNT_DETACH);
    rmdir(mount_);
  }
  std::string dir() const { return std::string(mount_) + "/flip"; }

 private:
  char mount_[32] = "/tmp/tpx-flip-XXXXXX";
};

std::string Text(const char* format, uint32_t i) {
  char text[64];
  std::snprintf(text, sizeof(text), format, i >> 8, i & 255);
  return text;
}

enum Goal : uint8_t { kX, kY, kGoals };

struct Flow {
  const Family& family;
  Goal goal;
  uint16_t port;
  Bytes syn;
  std::array<uint64_t, 2> seen{};  // steered, dropped
};

// One of the two generations.
struct Generation {
  policy::Policy policy;
  policy::CompiledPolicy compiled;
  control::RuleCounters counters;
};

class Flip : public PacketTest {
 protected:
  void SetUp() override {
    PacketTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    pins_.emplace();
    runner().PinPolicyMaps(pins());
    runner().StartWorkers(2);
    for (const Family& family : kFamilies) {
      for (Goal goal : {kX, kY}) {
        for (uint16_t port : {kWebPort, kNamePort}) {
          const char* to = goal == kX ? family.server : family.other_server;
          Packet syn = Packet().Ip(family.client, to).Tcp(kClientPort, port).Syn();
          flows_.push_back({.family = family, .goal = goal, .port = port, .syn = syn.Build()});
        }
      }
    }
  }

  std::string pins() const { return pins_->dir(); }

  // `proxied` goes to the proxy by one port and is dropped at the other; what is not, the other way round.
  // The many others come first and differ, so that classes of addresses, ports and rules have other numbers.
  static policy::Policy PolicyFor(Goal proxied, bool many) {
    policy::Policy policy;
    policy::Rule others = RuleFor({}, TPX_ACTION_BYPASS);
    others.name = "others";
    for (uint32_t i = 0; i < (many ? TPX_MAX_BLOCKS : 40); ++i) {
      const bool first = proxied == kX;
      for (const char* text :
           {first ? "10.%u.%u.7" : "10.%u.%u.8", first ? "2001:db8:ff:%x%02x::7" : "2001:db8:fe:%x%02x::"}) {
        others.src.push_back(*Prefix::Parse(Text(text, i)));
        others.dst.push_back(others.src.back());
      }
    }
    policy.rules.push_back(others);
    if (proxied == kY) AddShift(policy);
    for (Goal goal : {kX, kY}) {
      for (uint16_t port : {kWebPort, kNamePort}) policy.rules.push_back(RuleOf(goal, port, proxied));
    }
    policy.rules.push_back({.name = "default"});
    return policy;
  }

  Generation Make(Goal proxied, bool many, const control::RuleCounters& live) const {
    Generation made{.policy = PolicyFor(proxied, many), .compiled = {}, .counters = {}};
    made.compiled = *policy::Compile(made.policy);
    if (many) {
      for (size_t dimension : {TPX_DIM_SRC, TPX_DIM_DST}) {
        for (int v4 : {0, 1}) EXPECT_EQ(made.compiled.tables->root[dimension][v4], TPX_STEP_SEARCH);
      }
    }
    made.counters = control::AssignCounters(live, made.policy, *made.compiled.tables);
    return made;
  }

  // The two, with the counters that a reload would give them.
  std::array<Generation, 2> MakeBoth(bool many) const {
    Generation a = Make(kX, many, {}), b = Make(kY, many, a.counters);
    EXPECT_TRUE(control::ClearCounters(pins(), {}, a.counters).ok());
    EXPECT_TRUE(control::ClearCounters(pins(), a.counters, b.counters).ok());
    return {std::move(a), std::move(b)};
  }

  control::TablesMap Fill(policy::CompiledPolicy& compiled, uint32_t generation) const {
    auto tables = control::FillGeneration(pins(), compiled, generation);
    TPX_CHECK(tables.ok()) << tables.status();
    return *std::move(tables);
  }
  void Switch(uint32_t generation, const control::TablesMap& tables) const {
    const absl::Status status = control::SwitchGeneration(pins(), generation, tables);
    TPX_CHECK(status.ok()) << status;
  }
  void Drop(uint32_t generation) const { TPX_CHECK(control::DropGeneration(pins(), generation).ok()); }

  // Runs each flow's packet once; those with an answer of neither generation.
  size_t RunAll() {
    size_t others = 0;
    for (Flow& flow : flows_) {
      const Outcome out = runner().RunFast(Hook::kLan, flow.syn);
      if (out.code == kGoesOn && out.mark == kSteerMark) {
        ++flow.seen[0];
      } else if (out.code == kShot && out.mark == 0) {
        ++flow.seen[1];
      } else {
        ++others;
      }
    }
    return others;
  }

  // What the packets met is what the rules counted: no rule but those of their own flows took any.
  void ExpectHits(const std::array<Generation, 2>& both) {
    auto hits = *bpf::OpenRuleHits(pins(), bpf::Access::kReadOnly);
    std::map<uint32_t, uint64_t> expected;
    for (const Flow& flow : flows_) {
      EXPECT_GT(flow.seen[0], 0u);
      EXPECT_GT(flow.seen[1], 0u);
      for (bool dropped : {false, true})
        expected[CounterOf(both, NameOf(flow.goal, flow.port, dropped))] += flow.seen[dropped];
    }
    for (const Generation& generation : both) {
      for (const auto& [name, counter] : generation.counters) {
        uint64_t sum = 0;
        const std::vector<tpx_count> counts = *hits.Lookup(counter);
        for (const tpx_count& count : counts) sum += count.packets;
        EXPECT_EQ(sum, expected[counter]) << name;
      }
    }
  }

  std::vector<Flow> flows_;

 private:
  static constexpr uint16_t kWebPort = 443, kNamePort = 5300;

  static std::string NameOf(Goal goal, uint16_t port, bool dropped) {
    return std::string(dropped ? "drop-" : "proxy-") + (goal == kX ? "x-" : "y-") + std::to_string(port);
  }

  static uint32_t CounterOf(const std::array<Generation, 2>& both, const std::string& name) {
    const auto found = both[0].counters.find(name);
    return found != both[0].counters.end() ? found->second : both[1].counters.at(name);
  }

  static policy::Rule RuleOf(Goal goal, uint16_t port, Goal proxied) {
    const bool dropped = (goal == proxied) != (port == kWebPort);
    policy::Rule rule = RuleFor({port}, dropped ? TPX_ACTION_DROP : TPX_ACTION_PROXY);
    rule.name = NameOf(goal, port, dropped);
    for (const Family& family : kFamilies) {
      rule.src.push_back(*Prefix::Parse(family.client));
      rule.dst.push_back(*Prefix::Parse(goal == kX ? family.server : family.other_server));
    }
    return rule;
  }

  // Rules that concern no packet of the test but take the first numbers of rules and classes.
  static void AddShift(policy::Policy& policy) {
    for (uint32_t i = 0; i < 70; ++i) {
      policy::Rule rule = RuleFor({static_cast<uint16_t>(6000 + i)}, TPX_ACTION_BYPASS);
      rule.name = "shift" + std::to_string(i);
      for (const char* text : {"10.250.%u.%u", "2001:db8:fd:%x%02x::"}) {
        rule.src.push_back(*Prefix::Parse(Text(text, i)));
        rule.dst.push_back(rule.src.back());
      }
      policy.rules.push_back(rule);
    }
  }

  std::optional<ScratchPins> pins_;
};

// Else the tests below could not see one.
TEST_F(Flip, A9_AnyMixOfTablesAndPrefixesGivesAThirdAnswer) {
  auto both = MakeBoth(true);
  uint32_t generation = 0;
  for (int tables : {0, 1}) {
    for (int mixed : {1, 2, 3}) {  // bit by bit: sources, destinations
      policy::CompiledPolicy mix{.tables = std::make_unique<tpx_tables>(*both[tables].compiled.tables),
                                 .pages = {},
                                 .address_classes = {},
                                 .attributes = {}};
      for (int dimension : {TPX_DIM_SRC, TPX_DIM_DST}) {
        const bool other = (mixed >> dimension & 1) != 0;
        mix.pages[dimension] = both[other ? 1 - tables : tables].compiled.pages[dimension];
      }
      ++generation;
      Switch(generation, Fill(mix, generation));
      EXPECT_EQ(RunAll(), flows_.size()) << "tables " << tables << ", mix " << mixed;
    }
  }
}

TEST_F(Flip, A9_FiveThousandFlipsShowNoMix) {
  const uint32_t wanted = Scaled(5000);
  auto both = MakeBoth(true);
  std::vector<control::TablesMap> tables;
  for (uint32_t i : {0, 1}) tables.push_back(Fill(both[i].compiled, i + 1));
  Switch(1, tables[0]);
  std::atomic<uint32_t> flips{0};
  std::atomic<bool> stop{false};
  std::vector<std::thread> publishers;
  for (uint32_t i = 0; i < kThreads; ++i) {
    publishers.emplace_back([&, i] {
      OnAllCpus();
      for (uint32_t next = i % 2; !stop; next = 1 - next, ++flips) Switch(next + 1, tables[next]);
    });
  }
  size_t others = 0, rounds = 0;
  while (flips < wanted) others += RunAll(), ++rounds;
  stop = true;
  for (std::thread& publisher : publishers) publisher.join();
  std::printf("%u flips, %zu packets\n", flips.load(), rounds * flows_.size());
  EXPECT_EQ(others, 0u) << "of " << rounds * flows_.size() << " packets in " << flips << " flips";
  ExpectHits(both);
}

// Every flip with new maps for tables and prefixes, the old ones freed: what a reload does.
TEST_F(Flip, A9_GenerationsThatFollowOneAnotherShowNoMix) {
  for (bool many : {true, false}) {
    auto both = MakeBoth(many);
    for (Flow& flow : flows_) flow.seen = {};
    Switch(1, Fill(both[0].compiled, 1));
    std::atomic<uint32_t> live{1};
    std::atomic<bool> stop{false};
    std::thread publisher([&] {
      OnAllCpus();
      while (!stop) {
        const uint32_t next = live + 1;
        Switch(next, Fill(both[1 - next % 2].compiled, next));
        Drop(next - 1);
        live = next;
      }
    });
    size_t others = 0, rounds = 0;
    const auto end = steady_clock::now() + std::chrono::milliseconds(Scaled(1500));
    while (steady_clock::now() < end || live < 20) others += RunAll(), ++rounds;
    stop = true;
    publisher.join();
    std::printf("%u generations, %zu packets\n", live.load(), rounds * flows_.size());
    EXPECT_EQ(others, 0u) << "of " << rounds * flows_.size() << " packets in " << live << " generations";
    ExpectHits(both);
  }
}

}  // namespace
}  // namespace tpx::test
