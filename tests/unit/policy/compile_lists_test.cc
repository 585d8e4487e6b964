// SPDX-License-Identifier: Apache-2.0
// Sets of thousands of prefixes from files, for which the blocks do not suffice: the pages mean what the
// lists mean. The seed is printed; TPX_SEED repeats a run.
#include <gtest/gtest.h>
#include <netinet/in.h>

#include <cstdlib>
#include <iostream>
#include <map>
#include <random>
#include <set>

#include "support/reference_policy.h"
#include "tpx/base/strings.h"
#include "tpx/policy/parse.h"
#include "tpx/policy/prefix_list.h"

namespace tpx::policy {
namespace {

constexpr size_t kRounds = 40, kFlowsPerRound = 3000;

uint8_t* Bytes(IpAddr& addr) { return reinterpret_cast<uint8_t*>(&addr.raw); }

IpAddr Masked(IpAddr addr, size_t length) {
  for (size_t bit = length; bit < 128; ++bit)
    Bytes(addr)[bit / 8] &= static_cast<uint8_t>(~(0x80 >> (bit % 8)));
  return addr;
}

class Generator {
 public:
  explicit Generator(uint64_t seed) : random_(seed) {}

  size_t Below(size_t n) { return random_() % n; }

  // Some crowded into a few networks (tables by the third byte, ranges side by side), some spread, some
  // nested.
  std::string MakeList(size_t count) {
    std::string text = "; a list\n";
    for (size_t i = 0; i < count; ++i) {
      IpAddr addr = Below(2) == 0 ? MakeV4() : MakeV6();
      const size_t length = addr.is_v4()      ? 96 + (Below(300) == 0 ? 12 + Below(18) : 29 + Below(4))
                            : Below(300) == 0 ? 20 + Below(28)
                            : Below(4) == 0   ? 128
                                              : 44 + Below(85);
      text += Prefix{Masked(addr, length), static_cast<uint8_t>(length)}.ToString();
      text += Below(50) == 0 ? " # \r\n" : "\n";
    }
    return text;
  }

  // The first or the last address of a prefix, or its neighbour outside.
  IpAddr Near(const Prefix& prefix) {
    IpAddr addr = prefix.addr;
    const bool last = Below(2) == 0;
    for (size_t bit = prefix.length; last && bit < 128; ++bit)
      Bytes(addr)[bit / 8] |= static_cast<uint8_t>(0x80 >> (bit % 8));
    if (Below(2) == 0) return addr;
    const size_t first_byte = prefix.is_v4() ? 12 : 0;
    for (size_t i = 16; i-- > first_byte;) {
      Bytes(addr)[i] = static_cast<uint8_t>(Bytes(addr)[i] + (last ? 1 : -1));
      if (Bytes(addr)[i] != (last ? 0 : 0xff)) break;
    }
    return addr;
  }

 private:
  uint32_t Word() { return static_cast<uint32_t>(random_()); }
  IpAddr MakeV4() {
    const auto crowded = static_cast<uint32_t>(0x0a000000 + Below(1 << 18));
    return {.raw = {{0, 0, htonl(0xffff), htonl(Below(3) == 0 ? Word() : crowded)}}};
  }
  IpAddr MakeV6() {
    const uint32_t first = 0x20010db8 + static_cast<uint32_t>(Below(2) * Below(5000));
    const uint32_t second = Below(3) == 0 ? Word() : static_cast<uint32_t>(Below(40));
    const uint32_t third = Below(2) == 0 ? 0 : Word();
    return {.raw = {{htonl(first), htonl(second), htonl(third), htonl(static_cast<uint32_t>(Below(300)))}}};
  }

  std::mt19937_64 random_;
};

// Looks each length up: no ranges, no pages.
class PlainSet {
 public:
  explicit PlainSet(const std::vector<Prefix>& prefixes) {
    for (const Prefix& prefix : prefixes) by_length_[prefix.is_v4()][prefix.length].insert(prefix.addr);
  }
  bool Contains(const IpAddr& addr) const {
    for (const auto& [length, nets] : by_length_[addr.is_v4()]) {
      if (nets.contains(Masked(addr, length))) return true;
    }
    return false;
  }

 private:
  std::map<uint8_t, std::set<IpAddr>> by_length_[2];
};

std::vector<Prefix> PrefixesOf(const std::string& text) {
  const PrefixListReader reader{.on_error = [](int, int, const std::string&) { return false; }};
  return ParsePrefixList(text, TPX_MAX_PREFIXES, reader);
}

// Two sets in files and the rules that name them.
struct Case {
  std::string texts[2];
  std::vector<Prefix> lists[2];
  ParseResult parsed;

  explicit Case(Generator& generator)
      : texts{generator.MakeList(1 + generator.Below(20'000)),
              generator.MakeList(1 + generator.Below(3'000))},
        lists{PrefixesOf(texts[0]), PrefixesOf(texts[1])},
        parsed(ParseConfig(
            "version: 1\ninterfaces: {lan: eth1}\nsets: {a: {file: a.txt}, b: {file: b.txt}}\nrules:\n"
            "  - {name: from-b-to-a, match: {src: b, dst: a}, action: drop}\n"
            "  - {name: to-b, match: {dst: b}, action: reject}\n"
            "  - {name: from-a, match: {src: a}, action: drop}\n",
            "c.yaml", [this](const std::string& name) -> absl::StatusOr<std::string> {
              return texts[name == "a.txt" ? 0 : 1];
            })) {}
};

size_t Expected(const PlainSet& a, const PlainSet& b, const TestFlow& flow) {
  if (b.Contains(flow.src) && a.Contains(flow.dst)) return 0;
  if (b.Contains(flow.dst)) return 1;
  return a.Contains(flow.src) ? 2 : 3;
}

// What of the layout the destinations of a policy use.
struct Layout {
  bool v4_pages, v6_pages, v4_table;

  explicit Layout(const CompiledPolicy& compiled)
      : v4_pages(compiled.tables->root[TPX_DIM_DST][1] == TPX_STEP_SEARCH),
        v6_pages(compiled.tables->root[TPX_DIM_DST][0] == TPX_STEP_SEARCH),
        v4_table(false) {
    for (size_t i = 0; v4_pages && i < TPX_V4_ROOTS; ++i) {
      const size_t word = TPX_V4_NET_WORDS + i;
      const uint32_t at = compiled.pages[TPX_DIM_DST].at(word / TPX_PAGE_WORDS).word[word % TPX_PAGE_WORDS];
      v4_table = v4_table || (at & TPX_AT_TABLE) != 0;
    }
  }
};

TEST(CompileLists, PagesMeanWhatTheListsMean) {
  const char* given = getenv("TPX_SEED");
  const uint64_t seed = given != nullptr ? strtoull(given, nullptr, 10) : std::random_device()();
  std::cout << "TPX_SEED=" << seed << "\n";
  RecordProperty("seed", std::to_string(seed));
  Generator generator(seed);
  size_t v4_pages = 0, v6_pages = 0, v4_tables = 0, hits = 0;
  for (size_t round = 0; round < kRounds; ++round) {
    const Case c(generator);
    ASSERT_TRUE(c.parsed.ok()) << c.parsed.errors[0].ToString() << " seed " << seed;
    const absl::StatusOr<CompiledPolicy> compiled = Compile(c.parsed.config.policy);
    ASSERT_TRUE(compiled.ok()) << compiled.status();
    const Layout layout(*compiled);
    v4_pages += layout.v4_pages;
    v6_pages += layout.v6_pages;
    v4_tables += layout.v4_table;
    const PlainSet a(c.lists[0]), b(c.lists[1]);
    const TableInterpreter tables(*compiled);
    for (size_t i = 0; i < kFlowsPerRound; ++i) {
      const auto& from = c.lists[generator.Below(2)];
      const auto& to = c.lists[generator.Below(2)];
      const TestFlow flow{.src = generator.Near(from[generator.Below(from.size())]),
                          .dst = generator.Near(to[generator.Below(to.size())])};
      const size_t expected = Expected(a, b, flow);
      ASSERT_EQ(tables.Evaluate(flow), expected) << flow.src.ToString() << " to " << flow.dst.ToString()
                                                 << ", round " << round << " of seed " << seed;
      hits += expected != 3;
    }
  }
  EXPECT_GT(v4_pages, 2u);
  EXPECT_GT(v6_pages, 2u);
  EXPECT_GT(v4_tables, 2u);
  RecordProperty("v4_tables", std::to_string(v4_tables));
  EXPECT_GT(hits, kRounds * kFlowsPerRound / 10);
  EXPECT_LT(hits, kRounds * kFlowsPerRound);
}

}  // namespace
}  // namespace tpx::policy
