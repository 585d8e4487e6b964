// SPDX-License-Identifier: Apache-2.0
#include <utility>

#include "policy/match.h"

namespace tpx::policy {
namespace {

using Kind = YamlNode::Kind;

constexpr uint8_t kMaxDscp = 63;
constexpr uint32_t kMaxVlan = 4094;  // 4095 is reserved, 0 is none (802.1Q)

// RFC 2474, 2597, 3246, 5865, 8622.
constexpr Choice<uint8_t> kDscpNames[] = {
    {"default", 0}, {"le", 1},           {"cs1", 8},   {"af11", 10}, {"af12", 12}, {"af13", 14},
    {"cs2", 16},    {"af21", 18},        {"af22", 20}, {"af23", 22}, {"cs3", 24},  {"af31", 26},
    {"af32", 28},   {"af33", 30},        {"cs4", 32},  {"af41", 34}, {"af42", 36}, {"af43", 38},
    {"cs5", 40},    {"voice-admit", 44}, {"ef", 46},   {"cs6", 48},  {"cs7", 56}};

std::optional<MacAddress> ReadMac(Diagnostics& out, const YamlNode& node) {
  std::optional<std::string> text = ReadString(out, node, "mac");
  if (!text) return std::nullopt;
  std::optional<MacAddress> mac = ParseMac(*text);
  if (!mac) out.Error(node, StrCat("mac: ", Quote(*text), " is not an address such as 00:53:00:12:34:56"));
  return mac;
}

std::optional<uint8_t> ReadDscp(Diagnostics& out, const YamlNode& node) {
  if (node.kind != Kind::kInt) return ReadChoice<uint8_t>(out, node, "dscp", kDscpNames);
  std::optional<uint32_t> number = ReadUint(out, node, "dscp", 0, kMaxDscp);
  return number ? std::optional(static_cast<uint8_t>(*number)) : std::nullopt;
}

// "0x10/0xf0", or 0x10 for all bits.
std::optional<MarkMatch> ReadMark(Diagnostics& out, const YamlNode& node) {
  constexpr uint32_t kMax = 0xffffffff;
  const size_t slash = node.text.find('/');
  if (slash == std::string::npos) {
    std::optional<uint32_t> value = ReadUint(out, node, "mark", 0, kMax);
    return value ? std::optional(MarkMatch{*value}) : std::nullopt;
  }
  auto part = [&](std::string text) {
    YamlNode number = node;
    number.kind = Kind::kInt;
    number.text = std::move(text);
    return ReadUint(out, number, "mark", 0, kMax);
  };
  const auto value = part(std::string(node.text.substr(0, slash)));
  const auto mask = part(std::string(node.text.substr(slash + 1)));
  if (!value || !mask) return std::nullopt;
  if ((*value & ~*mask) != 0) {
    out.Error(node, StrCat("mark: ", Quote(node.text), " has bits outside its mask and fits nothing"));
    return std::nullopt;
  }
  return MarkMatch{*value, *mask};
}

std::optional<std::string> ReadInterface(Diagnostics& out, const YamlNode& node) {
  std::optional<std::string> name = ReadString(out, node, "interface");
  if (!name) return std::nullopt;
  if (std::string_view problem = InterfaceProblem(*name); !problem.empty()) {
    out.Error(node, StrCat("interface: ", Quote(*name), " ", problem));
    return std::nullopt;
  }
  return name;
}

}  // namespace

void ReadInterfaceMatch(Diagnostics& out, const YamlNode& node, std::vector<std::string>& interfaces) {
  ReadList(out, node, "interface", interfaces,
           [&](const YamlNode& item) { return ReadInterface(out, item); });
}

void ReadMacs(Diagnostics& out, const YamlNode& node, std::vector<MacAddress>& macs) {
  ReadList(out, node, "mac", macs, [&](const YamlNode& item) { return ReadMac(out, item); });
}

void ReadDscps(Diagnostics& out, const YamlNode& node, std::vector<uint8_t>& dscps) {
  ReadList(out, node, "dscp", dscps, [&](const YamlNode& item) { return ReadDscp(out, item); });
}

void ReadVlans(Diagnostics& out, const YamlNode& node, std::vector<uint16_t>& vlans) {
  ReadList(out, node, "vlan", vlans, [&](const YamlNode& item) -> std::optional<uint16_t> {
    const std::optional<uint32_t> number = ReadUint(out, item, "vlan", 1, kMaxVlan);
    return number ? std::optional(static_cast<uint16_t>(*number)) : std::nullopt;
  });
}

void ReadMarks(Diagnostics& out, const YamlNode& node, std::vector<MarkMatch>& marks) {
  ReadList(out, node, "mark", marks, [&](const YamlNode& item) { return ReadMark(out, item); });
}

}  // namespace tpx::policy
