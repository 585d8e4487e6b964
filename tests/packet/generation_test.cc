// SPDX-License-Identifier: Apache-2.0
// A packet sees one generation of the policy, never a mix of two.
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <thread>

#include "support/packet_fixture.h"

namespace tpx::test {
namespace {

class Generation : public FamilyTest {
 protected:
  // Both drop what goes to the server. Each numbers the classes of its prefixes
  // in its own way: the tables of one with the prefixes of the other bypass it, or have no answer.
  policy::Policy A() const { return PolicyOf({To(f().server, TPX_ACTION_DROP)}); }
  policy::Policy B() const {
    return PolicyOf({To(before_server(), TPX_ACTION_BYPASS), To(f().server, TPX_ACTION_DROP)});
  }
  const char* before_server() const { return v4() ? "198.51.100.1" : "2001:db8:2::1"; }

  // With so many prefixes that pages and tables are two lookups.
  policy::CompiledPolicy CompiledForSearch(policy::Policy policy) const {
    policy::Rule many = RuleFor({}, TPX_ACTION_BYPASS);
    for (uint32_t i = 0; i < TPX_MAX_BLOCKS; ++i) {
      char text[64];
      v4() ? std::snprintf(text, sizeof(text), "10.%u.%u.7", i / 256, i % 256)
           : std::snprintf(text, sizeof(text), "2001:db8:ff:%x::7", i);
      many.dst.push_back(*Prefix::Parse(text));
    }
    policy.rules.insert(policy.rules.end() - 1, many);
    policy::CompiledPolicy compiled = *policy::Compile(policy);
    EXPECT_EQ(compiled.tables->root[TPX_DIM_DST][v4() ? 1 : 0], TPX_STEP_SEARCH);
    return compiled;
  }

 private:
  static policy::Rule To(const char* dst, tpx_action action) {
    policy::Rule rule = RuleFor({}, action);
    rule.dst = {*Prefix::Parse(dst)};
    return rule;
  }
};
TPX_BOTH_FAMILIES(Generation);

TEST_P(Generation, AMixOfTheTwoPoliciesWouldBeSeen) {
  auto a = CompiledForSearch(A()), b = CompiledForSearch(B());
  runner().Fill(a, 1);
  runner().Flip(1);
  EXPECT_EQ(Lan(SynTo(kProxied)), Leaves(TPX_R_RULE_DROP));
  std::swap(a.pages, b.pages);
  runner().Fill(a, 2);
  runner().Flip(2);
  EXPECT_NE(Lan(SynTo(kProxied)), Leaves(TPX_R_RULE_DROP));
  runner().Fill(b, 3);
  runner().Flip(3);
  EXPECT_NE(Lan(SynTo(kProxied)), Leaves(TPX_R_RULE_DROP));
}

TEST_P(Generation, NoPacketSeesAMixWhileGenerationsFollowOneAnother) {
  auto a = CompiledForSearch(A()), b = CompiledForSearch(B());
  runner().Fill(a, 1);
  runner().Flip(1);
  std::atomic<bool> stop{false};
  std::atomic<uint32_t> flips{0};
  std::thread publisher([&] {
    cpu_set_t all;
    CPU_ZERO(&all);
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) CPU_SET(cpu, &all);
    sched_setaffinity(0, sizeof(all), &all);
    for (uint32_t next = 2; !stop; ++next, ++flips) {
      runner().Fill(next % 2 == 0 ? b : a, next);
      runner().Flip(next);
    }
  });
  Bytes syn = SynTo(kProxied).Build();
  const Outcome dropped{.code = 2, .mark = 0, .reason = -1, .changed = false};  // TC_ACT_SHOT
  size_t packets = 0, others = 0;
  auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(1500);
  runner().TakeCounts();
  while (std::chrono::steady_clock::now() < end || flips < 20) {
    for (int i = 0; i < 100; ++i, ++packets) others += runner().RunFast(Hook::kLan, syn) != dropped;
  }
  stop = true;
  publisher.join();
  EXPECT_EQ(others, 0u) << "of " << packets << " packets in " << flips << " generations";
  EXPECT_EQ(runner().TakeCounts()[TPX_R_RULE_DROP], packets);
}

TEST_P(Generation, HitsAreCountedWhereTheGenerationSays) {
  uint32_t first = runner().generation();
  uint64_t before = runner().RuleHits(first + 1, 0);
  Lan(SynTo(kProxied));
  EXPECT_EQ(runner().RuleHits(first + 1, 0), before);
  runner().Publish(PolicyOf({RuleFor({kProxied}, TPX_ACTION_DROP)}));
  Lan(SynTo(kProxied));
  EXPECT_EQ(runner().RuleHits(first + 1, 0), before + 1);
}

}  // namespace
}  // namespace tpx::test
