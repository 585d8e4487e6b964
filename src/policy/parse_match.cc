// SPDX-License-Identifier: Apache-2.0
#include <netinet/in.h>

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "policy/match.h"
#include "tpx/policy/prefix_list.h"

namespace tpx::policy {
namespace {

using Kind = YamlNode::Kind;

void ReadProtocols(Diagnostics& out, const YamlNode& node, std::vector<uint8_t>& protocols) {
  static constexpr Choice<std::pair<uint8_t, uint8_t>> kNamed[] = {{"tcp", {IPPROTO_TCP, IPPROTO_TCP}},
                                                                   {"udp", {IPPROTO_UDP, IPPROTO_UDP}},
                                                                   {"icmp", {IPPROTO_ICMP, IPPROTO_ICMPV6}}};
  auto add = [&](const YamlNode& item, uint8_t protocol) {
    if (std::find(protocols.begin(), protocols.end(), protocol) != protocols.end()) {
      out.Error(item, StrCat("proto: ", Quote(item.text), " is listed twice"));
    } else {
      protocols.push_back(protocol);
    }
  };
  for (const YamlNode* item : ReadOneOrMany(out, node, "proto")) {
    if (out.full()) break;
    if (item->kind == Kind::kInt) {
      if (std::optional<uint32_t> number = ReadUint(out, *item, "proto", 0, 255)) {
        add(*item, static_cast<uint8_t>(*number));
      }
    } else if (auto named = ReadChoice<std::pair<uint8_t, uint8_t>>(out, *item, "proto", kNamed)) {
      add(*item, named->first);
      if (named->second != named->first) add(*item, named->second);
    }
  }
  std::sort(protocols.begin(), protocols.end());
}

// A name is looked up first: names of sets never look like addresses.
void ReadPrefixes(Diagnostics& out, const YamlNode& node, std::string_view what, const Sets& sets,
                  std::vector<Prefix>& prefixes) {
  for (const YamlNode* item : ReadOneOrMany(out, node, what)) {
    if (out.full()) break;
    std::optional<std::string> text = ReadString(out, *item, what);
    if (!text) continue;
    if (auto set = sets.find(*text); set != sets.end()) {
      if (prefixes.size() + set->second.size() > kMaxPrefixesTotal) {
        out.Error(*item, StrCat(what, ": more than ", kMaxPrefixesTotal, " prefixes"));
        break;
      }
      prefixes.insert(prefixes.end(), set->second.begin(), set->second.end());
      continue;
    }
    absl::StatusOr<Prefix> prefix = Prefix::Parse(*text);
    if (prefix.ok()) {
      prefixes.push_back(*prefix);
    } else if (text->find_first_of(":/") != text->npos ||
               (!text->empty() && absl::ascii_isdigit((*text)[0]))) {
      out.Error(*item, std::string(prefix.status().message()));
    } else {
      std::vector<std::string_view> names;
      for (const auto& [name, unused] : sets) names.push_back(name);
      out.Error(*item, StrCat("unknown set ", Quote(*text), Suggestion(*text, names)));
    }
  }
  MergePrefixes(prefixes);
}

struct PlacedRange {
  PortRange range;
  const YamlNode* node;
};

std::optional<PortRange> ReadRange(Diagnostics& out, const YamlNode& node, std::string_view what) {
  if (node.kind == Kind::kInt || node.kind == Kind::kString) {
    std::string_view text = node.text;
    size_t dash = text.find('-');
    std::optional<uint16_t> first = ParsePort(text.substr(0, dash));
    std::optional<uint16_t> last = dash == text.npos ? first : ParsePort(text.substr(dash + 1));
    if (first && last && *last < *first) {
      out.Error(node, StrCat(what, ": the range ", Quote(text), " is reversed, did you mean '", *last, "-",
                             *first, "'?"));
      return std::nullopt;
    }
    if (first && last) return PortRange{*first, *last};
  }
  out.Error(node, StrCat(what, ": expected a port from 0 to 65535 or a range such as 8000-8100, got ",
                         node.is_scalar() && node.kind != Kind::kNull ? Quote(node.text)
                                                                      : std::string(KindName(node.kind))));
  return std::nullopt;
}

void ReadPorts(Diagnostics& out, const YamlNode& node, std::string_view what,
               std::vector<PortRange>& ranges) {
  std::vector<PlacedRange> placed;
  for (const YamlNode* item : ReadOneOrMany(out, node, what)) {
    if (out.full()) break;
    if (std::optional<PortRange> range = ReadRange(out, *item, what)) placed.push_back({*range, item});
  }
  std::stable_sort(placed.begin(), placed.end(), [](const PlacedRange& a, const PlacedRange& b) {
    return std::pair(a.range.first, a.range.last) < std::pair(b.range.first, b.range.last);
  });
  for (size_t i = 0; i < placed.size(); ++i) {
    ranges.push_back(placed[i].range);
    if (i == 0 || placed[i].range.first > placed[i - 1].range.last) continue;
    auto [one, other] = std::pair(placed[i - 1].node, placed[i].node);
    if (std::pair(other->line, other->column) < std::pair(one->line, one->column)) std::swap(one, other);
    bool same = placed[i].range == placed[i - 1].range;
    return out.Error(*other, same ? StrCat(what, ": ", Quote(other->text), " is listed twice")
                                  : StrCat(what, ": ", Quote(other->text), " overlaps ", Quote(one->text)));
  }
}

// The value of a key, or what stands behind its `not`.
const YamlNode& Unnegated(Diagnostics& out, const YamlNode& node, std::string_view what, bool& negated) {
  const YamlNode* inner = &node;
  if (node.kind == Kind::kMap) {
    ReadMap(out, node, what,
            {{.key = "not", .read = [&](const YamlNode& value) { inner = &value; }, .required = true}});
    negated = inner != &node;
  }
  return *inner;
}

std::vector<uint8_t> OthersOf(const std::vector<uint8_t>& listed, unsigned end) {
  std::vector<uint8_t> others;
  for (unsigned value = 0; value < end; ++value) {
    if (std::find(listed.begin(), listed.end(), value) == listed.end())
      others.push_back(static_cast<uint8_t>(value));
  }
  return others;
}

// The ranges are sorted and apart.
std::vector<PortRange> OthersOf(const std::vector<PortRange>& listed) {
  std::vector<PortRange> others;
  uint32_t next = 0;
  for (PortRange range : listed) {
    if (range.first > next)
      others.push_back({static_cast<uint16_t>(next), static_cast<uint16_t>(range.first - 1)});
    next = range.last + 1u;
  }
  if (next <= 65535) others.push_back({static_cast<uint16_t>(next), 65535});
  return others;
}

class MatchReader {
 public:
  MatchReader(Diagnostics& out, const Sets& sets, const OwnerLookup& owners, Rule& rule)
      : out_(out), sets_(sets), owners_(owners), rule_(rule) {}

  MatchNodes Read(const YamlNode& node) {
    ReadMap(
        out_, node, "match",
        {{.key = "proto", .read = [&](const YamlNode& value) { Protocols(value); }},
         {.key = "src", .read = [&](const YamlNode& value) { Prefixes(value, "src", kMatchSrc, rule_.src); }},
         {.key = "dst", .read = [&](const YamlNode& value) { Prefixes(value, "dst", kMatchDst, rule_.dst); }},
         {.key = "sport", .read = [&](const YamlNode& value) { Ports(value, "sport", rule_.sports); }},
         {.key = "dport", .read = [&](const YamlNode& value) { Ports(value, "dport", rule_.dports); }},
         Listed("interface", kMatchInterface, ReadInterfaceMatch, rule_.interfaces),
         Listed("mac", kMatchMac, ReadMacs, rule_.macs),
         {.key = "dscp", .read = [&](const YamlNode& value) { Dscps(value); }},
         Listed("mark", kMatchMark, ReadMarks, rule_.marks),
         Listed("vlan", kMatchVlan, ReadVlans, rule_.vlans),
         Ids("uid", kMatchUid, owners_.user, rule_.uids),
         Ids("gid", kMatchGid, owners_.group, rule_.gids),
         Found("cgroup", kMatchCgroup, ReadCgroups, rule_.cgroups),
         Found("exe", kMatchExe, ReadPrograms, rule_.programs)});
    return nodes_;
  }

 private:
  void Protocols(const YamlNode& node) {
    nodes_.proto = &node;
    const YamlNode& listed = Unnegated(out_, node, "proto", nodes_.negates_proto);
    if (node.kind == Kind::kMap && !nodes_.negates_proto) return;
    ReadProtocols(out_, listed, rule_.protocols);
    if (nodes_.negates_proto) rule_.protocols = OthersOf(rule_.protocols, TPX_PROTO_UNKNOWN);
  }

  // An empty list would accept everything, but whoever names an empty set means nothing.
  void Prefixes(const YamlNode& node, std::string_view what, MatchKey key, std::vector<Prefix>& list) {
    bool negated = false;
    const YamlNode& listed = Unnegated(out_, node, what, negated);
    if (node.kind == Kind::kMap && !negated) return;
    ReadPrefixes(out_, listed, what, sets_, list);
    if (list.empty() && !negated) rule_.matches_nothing = true;
    if (!list.empty() && negated) rule_.negated |= key;
  }

  void Ports(const YamlNode& node, std::string_view what, std::vector<PortRange>& list) {
    if (nodes_.ports == nullptr) nodes_.ports = &node;
    bool negated = false;
    const YamlNode& listed = Unnegated(out_, node, what, negated);
    if (node.kind == Kind::kMap && !negated) return;
    const size_t errors = out_.errors();
    ReadPorts(out_, listed, what, list);
    if (!negated || out_.errors() != errors) return;
    list = OthersOf(list);
    if (list.empty()) out_.Error(node, StrCat(what, ": no port is left"));
  }

  void Dscps(const YamlNode& node) {
    bool negated = false;
    const YamlNode& listed = Unnegated(out_, node, "dscp", negated);
    if (node.kind == Kind::kMap && !negated) return;
    ReadDscps(out_, listed, rule_.dscps);
    if (!negated) return;
    rule_.dscps = OthersOf(rule_.dscps, 64);
    if (rule_.dscps.empty()) out_.Error(node, "dscp: no value is left");
  }

  template <typename T>
  Field Found(std::string_view what, MatchKey key,
              void (*read)(Diagnostics&, const YamlNode&, const OwnerLookup&, std::vector<T>&),
              std::vector<T>& list) {
    auto with_lookup = [this, read](Diagnostics& out, const YamlNode& node, std::vector<T>& values) {
      read(out, node, owners_, values);
    };
    return Listed(what, key, with_lookup, list);
  }

  template <typename Lookup>
  Field Ids(std::string_view what, MatchKey key, const Lookup& lookup, std::vector<IdRange>& list) {
    auto read = [what, &lookup](Diagnostics& out, const YamlNode& node, std::vector<IdRange>& ids) {
      ReadIds(out, node, what, lookup, ids);
    };
    return Listed(what, key, read, list);
  }

  template <typename Read, typename T>
  Field Listed(std::string_view what, MatchKey key, Read read, std::vector<T>& list) {
    return {.key = what, .read = [this, what, key, read, &list](const YamlNode& node) {
              bool negated = false;
              const YamlNode& listed = Unnegated(out_, node, what, negated);
              if (node.kind == Kind::kMap && !negated) return;
              read(out_, listed, list);
              if (negated) rule_.negated |= key;
            }};
  }

  Diagnostics& out_;
  const Sets& sets_;
  const OwnerLookup& owners_;
  Rule& rule_;
  MatchNodes nodes_;
};

}  // namespace

MatchNodes ReadMatch(Diagnostics& out, const YamlNode& node, const Sets& sets, const OwnerLookup& owners,
                     Rule& rule) {
  return MatchReader(out, sets, owners, rule).Read(node);
}

}  // namespace tpx::policy
