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

}  // namespace

MatchNodes ReadMatch(Diagnostics& out, const YamlNode& node, const Sets& sets, Rule& rule) {
  MatchNodes nodes;
  // An empty list would accept everything, but whoever names an empty set means nothing.
  auto prefixes = [&](std::string_view what, std::vector<Prefix>& list) {
    return Field{.key = what, .read = [&out, &sets, &rule, &list, what](const YamlNode& value) {
                   ReadPrefixes(out, value, what, sets, list);
                   if (list.empty()) rule.matches_nothing = true;
                 }};
  };
  auto ports = [&](std::string_view what, std::vector<PortRange>& list) {
    return Field{.key = what, .read = [&out, &nodes, &list, what](const YamlNode& value) {
                   if (nodes.ports == nullptr) nodes.ports = &value;
                   ReadPorts(out, value, what, list);
                 }};
  };
  ReadMap(out, node, "match",
          {{.key = "proto",
            .read =
                [&](const YamlNode& value) {
                  nodes.proto = &value;
                  ReadProtocols(out, value, rule.protocols);
                }},
           prefixes("src", rule.src),
           prefixes("dst", rule.dst),
           ports("sport", rule.sports),
           ports("dport", rule.dports)});
  return nodes;
}

}  // namespace tpx::policy
