// SPDX-License-Identifier: Apache-2.0
#include "policy/ranges.h"

#include <netinet/in.h>

#include <algorithm>
#include <map>
#include <tuple>
#include <utility>

namespace tpx::policy {
namespace {

template <typename Key>
constexpr Key kLastKey = ~Key{0};

template <typename Key>
struct Entry {
  Key first;
  uint8_t length;  // of the prefix, within the key
  uint16_t rule;

  Key last() const {
    constexpr unsigned kBits = 8 * sizeof(Key);
    return length == kBits ? first : first | kLastKey<Key> >> length;
  }
  // A prefix comes before those inside it.
  friend bool operator<(const Entry& a, const Entry& b) {
    if (a.first != b.first) return a.first < b.first;
    return std::tie(a.length, a.rule) < std::tie(b.length, b.rule);
  }
  bool SamePrefix(const Entry& other) const { return first == other.first && length == other.length; }
};

struct Entries {
  std::vector<Entry<V4Key>> v4;
  std::vector<Entry<V6Key>> v6;
};

V6Key KeyOf(const IpAddr& addr) {
  V6Key key = 0;
  for (uint32_t word : addr.raw.w) key = key << 32 | ntohl(word);
  return key;
}

template <typename Key>
void Sort(std::vector<Entry<Key>>& entries) {
  if (!std::is_sorted(entries.begin(), entries.end())) std::sort(entries.begin(), entries.end());
}

Entries SortedEntries(const Policy& policy, std::vector<Prefix> Rule::*member) {
  Entries entries;
  for (size_t i = 0; i < policy.rules.size(); ++i) {
    const auto rule = static_cast<uint16_t>(i);
    for (const Prefix& prefix : policy.rules[i].*member) {
      if (prefix.is_v4()) {
        entries.v4.push_back({ntohl(prefix.addr.raw.w[3]), static_cast<uint8_t>(prefix.length - 96), rule});
      } else {
        entries.v6.push_back({KeyOf(prefix.addr), prefix.length, rule});
      }
    }
  }
  Sort(entries.v4);
  Sort(entries.v6);
  return entries;
}

// The class of what has the class `outer` and is accepted by some more rules, or
// by some less: those that negate their prefixes.
class Unions {
 public:
  Unions(Classes& classes, const std::vector<bool>& negating) : classes_(classes), negating_(negating) {}

  template <typename Iterator>
  uint32_t Number(uint32_t outer, Iterator begin, Iterator end) {
    key_.first = outer;
    key_.second.clear();
    for (auto entry = begin; entry != end; ++entry) key_.second.push_back(entry->rule);
    if (last_ != known_.end() && last_->first == key_) return last_->second;
    last_ = known_.find(key_);
    if (last_ != known_.end()) return last_->second;
    tpx_bits bits = classes_.bits(outer);
    for (uint16_t rule : key_.second) negating_[rule] ? ClearBit(bits, rule) : SetBit(bits, rule);
    last_ = known_.emplace(key_, classes_.Number(bits)).first;
    return last_->second;
  }

 private:
  using Key = std::pair<uint32_t, std::vector<uint16_t>>;
  Classes& classes_;
  const std::vector<bool>& negating_;
  Key key_;
  std::map<Key, uint32_t> known_;
  std::map<Key, uint32_t>::const_iterator last_ = known_.end();  // prefixes of one set follow one another
};

// Walks the sorted prefixes with those around the current one on a stack.
template <typename Key>
std::vector<Range<Key>> Sweep(const std::vector<Entry<Key>>& entries, const std::vector<bool>& negating,
                              Classes& classes, uint32_t miss_class) {
  struct Level {
    Key last;
    uint32_t number;
  };
  std::vector<Range<Key>> ranges;
  auto begin = [&ranges](Key first, uint32_t number) {
    if (!ranges.empty() && ranges.back().first == first) ranges.pop_back();
    if (!ranges.empty() && ranges.back().number == number) return;
    ranges.push_back({first, static_cast<uint16_t>(number)});
  };
  Unions unions(classes, negating);
  std::vector<Level> around = {{kLastKey<Key>, miss_class}};
  auto leave = [&] {
    const Level level = around.back();
    around.pop_back();
    if (level.last != kLastKey<Key>) begin(level.last + 1, around.back().number);
  };
  ranges.reserve(entries.size() + 1);
  begin(0, miss_class);
  for (auto entry = entries.begin(); entry != entries.end() && !classes.overflowed();) {
    while (around.back().last < entry->first) leave();
    auto end = entry + 1;
    while (end != entries.end() && end->SamePrefix(*entry)) ++end;
    around.push_back({entry->last(), unions.Number(around.back().number, entry, end)});
    begin(entry->first, around.back().number);
    entry = end;
  }
  while (around.size() > 1) leave();
  return ranges;
}

}  // namespace

AddressRanges MakeRanges(const Policy& policy, std::vector<Prefix> Rule::*member, MatchKey key,
                         Classes& classes, uint32_t& miss_class) {
  tpx_bits uncovered{};
  std::vector<bool> negating(policy.rules.size());
  for (size_t i = 0; i < policy.rules.size(); ++i) {
    negating[i] = policy.rules[i].negates(key);
    if ((policy.rules[i].*member).empty() || negating[i]) SetBit(uncovered, i);
  }
  miss_class = classes.Number(uncovered);
  AddressRanges ranges;
  if (classes.overflowed()) return ranges;
  const Entries entries = SortedEntries(policy, member);
  ranges.v4 = Sweep(entries.v4, negating, classes, miss_class);
  ranges.v6 = Sweep(entries.v6, negating, classes, miss_class);
  return ranges;
}

}  // namespace tpx::policy
