// SPDX-License-Identifier: Apache-2.0
#include "policy/layout.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <span>
#include <utility>

namespace tpx::policy {
namespace {

template <typename Key>
using Ranges = std::span<const Range<Key>>;

// The part of `ranges` that the addresses from `first` to `last` are in, the
// latter not before those of an earlier call: `from` keeps the place.
template <typename Key>
Ranges<Key> Within(Ranges<Key> ranges, Key first, Key last, size_t& from) {
  while (from + 1 < ranges.size() && ranges[from + 1].first <= first) ++from;
  size_t end = from + 1;
  while (end < ranges.size() && ranges[end].first <= last) ++end;
  const Ranges<Key> within = ranges.subspan(from, end - from);
  from = end - 1;
  return within;
}

// Hands out the blocks of one dimension.
class Blocks {
 public:
  Blocks(tpx_tables& tables, size_t dimension)
      : tables_(tables),
        next_(static_cast<uint16_t>(dimension * TPX_MAX_BLOCKS / 2)),
        end_(static_cast<uint16_t>(next_ + TPX_MAX_BLOCKS / 2)) {}

  // The first step of a family; TPX_STEP_SEARCH, and no block is used, where there are too few.
  template <typename Key>
  uint16_t Root(const std::vector<Range<Key>>& ranges) {
    const uint16_t before = next_;
    const uint16_t step = Step(Ranges<Key>(ranges), Key{0}, 8 * sizeof(Key));
    if (step == TPX_STEP_SEARCH) {
      std::fill(&tables_.block[before][0], &tables_.block[next_ - 1][0] + 256, uint16_t{0});
      next_ = before;
    }
    return step;
  }

 private:
  // For the 2^bits addresses from `first` on.
  template <typename Key>
  uint16_t Step(Ranges<Key> ranges, Key first, size_t bits) {
    if (ranges.size() == 1) return ranges[0].number;
    if (next_ == end_) return TPX_STEP_SEARCH;
    const uint16_t number = next_++;
    const Key size = Key{1} << (bits - 8);
    size_t from = 0;
    for (uint16_t& step : tables_.block[number]) {
      step = Step(Within(ranges, first, static_cast<Key>(first + (size - 1)), from), first, bits - 8);
      if (step == TPX_STEP_SEARCH) return TPX_STEP_SEARCH;
      first += size;
    }
    return TPX_STEP_BLOCK | number;
  }

  tpx_tables& tables_;
  uint16_t next_, end_;
};

// What all addresses of networks of TPX_V4_NET_BITS bits have in common.
class V4Nets {
 public:
  explicit V4Nets(Ranges<V4Key> ranges) : ranges_(ranges) {}

  // The classes that most networks have, the commonest first; the rest is TPX_STEP_SEARCH.
  void Choose(uint16_t (&classes)[TPX_V4_COMMON]) const {
    std::vector<std::pair<size_t, uint16_t>> nets(TPX_MAX_CLASSES);
    for (uint16_t number = 0; number < TPX_MAX_CLASSES; ++number) nets[number].second = number;
    ForEachRun([&](uint16_t number, size_t from, size_t to) { nets[number].first += to - from; });
    std::partial_sort(nets.begin(), nets.begin() + kSearch, nets.end(), std::greater<>());
    std::fill_n(classes, TPX_V4_COMMON, uint16_t{TPX_STEP_SEARCH});
    for (size_t i = 0; i < kSearch && nets[i].first != 0; ++i) classes[i] = nets[i].second;
  }

  // Fills the first TPX_V4_NET_WORDS words.
  void Write(const uint16_t (&classes)[TPX_V4_COMMON], std::vector<tpx_page>& pages) const {
    std::vector<uint32_t> words(TPX_V4_NET_WORDS, ~uint32_t{0});
    ForEachRun([&](uint16_t number, size_t from, size_t to) {
      const size_t index = static_cast<size_t>(std::find(classes, classes + kSearch, number) - classes);
      for (size_t net = from; net < to; ++net) words[net / 16] ^= (kSearch ^ index) << net % 16 * 2;
    });
    memcpy(pages.data(), words.data(), words.size() * sizeof(words[0]));
  }

 private:
  static constexpr uint32_t kSearch = TPX_V4_COMMON - 1;

  // Calls `run` with the class of each range and the networks that are all inside it.
  template <typename Run>
  void ForEachRun(Run run) const {
    constexpr unsigned kShift = 32 - TPX_V4_NET_BITS;
    constexpr uint64_t kEnd = uint64_t{1} << 32;
    for (size_t i = 0; i < ranges_.size(); ++i) {
      const uint64_t end = i + 1 < ranges_.size() ? ranges_[i + 1].first : kEnd;
      const size_t from = (ranges_[i].first + (uint64_t{1} << kShift) - 1) >> kShift, to = end >> kShift;
      if (from < to) run(ranges_[i].number, from, to);
    }
  }

  Ranges<V4Key> ranges_;
};

class V4Words {
 public:
  explicit V4Words(std::vector<tpx_page>& pages) : pages_(pages) {}

  bool Write(Ranges<V4Key> ranges, uint16_t (&classes)[TPX_V4_COMMON]) {
    // Near what it will be, for prefixes that are spread evenly.
    pages_.reserve((TPX_V4_NET_WORDS + TPX_V4_ROOTS + 2 * ranges.size()) / TPX_PAGE_WORDS);
    Allocate(TPX_V4_NET_WORDS, TPX_PAGE_WORDS);
    WriteAll(ranges, Allocate(TPX_V4_ROOTS, TPX_PAGE_WORDS), TPX_V4_ROOTS, 0, 16);
    const V4Nets nets(ranges);
    nets.Choose(classes);
    nets.Write(classes, pages_);
    return next_ <= TPX_MAX_V4_WORDS;
  }

 private:
  uint32_t& Word(size_t at) { return pages_[at / TPX_PAGE_WORDS].word[at % TPX_PAGE_WORDS]; }

  // Words that lie in one page, and where they fit, in one cache line.
  size_t Allocate(size_t count, size_t unit) {
    constexpr size_t kLineWords = 64 / sizeof(uint32_t);
    for (size_t alignment : {unit, kLineWords, size_t{TPX_PAGE_WORDS}}) {
      const bool split = next_ % alignment + count > alignment;
      if (alignment == unit || (count <= alignment && split))
        next_ = (next_ + alignment - 1) / alignment * alignment;
    }
    const size_t at = next_;
    next_ += count;
    pages_.resize((next_ + TPX_PAGE_WORDS - 1) / TPX_PAGE_WORDS);
    return at;
  }

  // `count` words from `at` on, each for 2^bits addresses, the first of which is `first`.
  void WriteAll(Ranges<V4Key> ranges, size_t at, size_t count, V4Key first, unsigned bits) {
    const V4Key size = V4Key{1} << bits;
    size_t from = 0;
    for (size_t i = 0; i < count && next_ <= TPX_MAX_V4_WORDS; ++i, first += size) {
      const uint32_t word = WordFor(Within(ranges, first, first + (size - 1), from), first);
      Word(at + i) = word;
    }
  }

  uint32_t WordFor(Ranges<V4Key> ranges, V4Key first) {
    if (ranges.size() == 1) return ranges[0].number;
    if (ranges.size() > TPX_MAX_RANGES) {
      const size_t at = Allocate(256, 256);
      WriteAll(ranges, at, 256, first, 8);
      return TPX_AT_TABLE | static_cast<uint32_t>(at / TPX_AT_UNIT) << 8;
    }
    const size_t at = Allocate(ranges.size(), TPX_AT_UNIT);
    Word(at) = ranges[0].number;
    for (size_t i = 1; i < ranges.size(); ++i) Word(at + i) = ranges[i].first << 16 | ranges[i].number;
    return TPX_AT_RANGES | static_cast<uint32_t>(at / TPX_AT_UNIT) << 8 |
           static_cast<uint32_t>(ranges.size() - 1);
  }

  std::vector<tpx_page>& pages_;
  size_t next_ = 0;
};

// One range of a node.
struct V6Entry {
  V6Key first;
  uint32_t next;
};

void WriteNode(std::span<const V6Entry> entries, tpx_page& page) {
  tpx_v6_node node{};
  for (size_t i = 0; i < TPX_V6_FANOUT; ++i) {
    const V6Entry& entry = entries[std::min(i, entries.size() - 1)];
    node.high[i] = static_cast<uint64_t>(entry.first >> 64);
    node.low[i] = static_cast<uint64_t>(entry.first);
    node.next[i] = entry.next;
  }
  memcpy(&page, &node, sizeof(page));
}

// The tree grows from its leaves to its root; returns the root's page.
uint32_t WriteTree(Ranges<V6Key> ranges, std::vector<tpx_page>& pages, uint16_t& levels) {
  std::vector<V6Entry> level;
  level.reserve(ranges.size());
  for (const Range<V6Key>& range : ranges) level.push_back({range.first, range.number});
  for (levels = 0; levels == 0 || level.size() > 1; ++levels) {
    std::vector<V6Entry> above;
    for (size_t i = 0; i < level.size(); i += TPX_V6_FANOUT) {
      above.push_back({level[i].first, static_cast<uint32_t>(pages.size())});
      const size_t count = std::min<size_t>(TPX_V6_FANOUT, level.size() - i);
      WriteNode(std::span(level).subspan(i, count), pages.emplace_back());
    }
    level = std::move(above);
  }
  return level[0].next;
}

}  // namespace

bool LayOut(const AddressRanges& ranges, size_t dimension, tpx_tables& tables, std::vector<tpx_page>& pages) {
  Blocks blocks(tables, dimension);
  tables.root[dimension][1] = blocks.Root(ranges.v4);
  tables.root[dimension][0] = blocks.Root(ranges.v6);
  if (tables.root[dimension][1] == TPX_STEP_SEARCH &&
      !V4Words(pages).Write(ranges.v4, tables.v4_class[dimension])) {
    return false;
  }
  if (tables.root[dimension][0] == TPX_STEP_SEARCH) {
    tables.v6_root[dimension] = WriteTree(ranges.v6, pages, tables.v6_levels[dimension]);
  }
  return true;
}

}  // namespace tpx::policy
