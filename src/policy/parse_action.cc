// SPDX-License-Identifier: Apache-2.0
#include "policy/sections.h"

namespace tpx::policy {
namespace {

using Kind = YamlNode::Kind;

constexpr std::string_view kRedirect = "redirect";
constexpr Choice<tpx_action> kActions[] = {{"proxy", TPX_ACTION_PROXY},
                                           {"bypass", TPX_ACTION_BYPASS},
                                           {"drop", TPX_ACTION_DROP},
                                           {"reject", TPX_ACTION_REJECT},
                                           {kRedirect, TPX_ACTION_REDIRECT}};
// A redirect is never a default.
constexpr std::span<const Choice<tpx_action>> kDefaultActions(kActions, std::size(kActions) - 1);
// For messages: the one action that is written in another way.
constexpr std::string_view kRedirectForm = "{redirect: \"127.0.0.1:5353\"}";

// Addresses that no connection can be made to.
struct NoTarget {
  std::string_view prefix, why;
};
constexpr NoTarget kNoTargets[] = {{"0.0.0.0/8", "is unspecified"},
                                   {"::/128", "is unspecified"},
                                   {"224.0.0.0/4", "is multicast"},
                                   {"ff00::/8", "is multicast"},
                                   {"255.255.255.255/32", "is broadcast"},
                                   {"fe80::/10", "is link-local, which says nothing without an interface"}};

// "192.0.2.1:53" or "[2001:db8::1]:53".
absl::StatusOr<Endpoint> ParseTarget(std::string_view text) {
  const size_t colon = text.rfind(':');
  if (colon == text.npos || text.ends_with(']')) {
    return absl::InvalidArgumentError(
        StrCat(Quote(text), " has no port, write ", Quote(StrCat(text, ":53"))));
  }
  std::string_view address = text.substr(0, colon);
  const bool brackets = address.starts_with('[') && address.ends_with(']');
  if (brackets) {
    address = address.substr(1, address.size() - 2);
  } else if (address.find(':') != address.npos) {
    return absl::InvalidArgumentError(
        StrCat(Quote(text), ": an IPv6 address needs brackets, such as '[2001:db8::1]:53'"));
  }
  absl::StatusOr<IpAddr> addr = IpAddr::Parse(address);
  if (!addr.ok()) return addr.status();
  if (brackets && addr->is_v4()) {
    return absl::InvalidArgumentError(StrCat(Quote(text), ": an IPv4 address has no brackets"));
  }
  const std::optional<uint16_t> port = ParsePort(text.substr(colon + 1));
  if (!port || *port == 0) {
    return absl::InvalidArgumentError(StrCat("port of ", Quote(text), " is not a number from 1 to 65535"));
  }
  for (const NoTarget& bad : kNoTargets) {
    if (Prefix::Parse(bad.prefix)->Contains(*addr)) {
      return absl::InvalidArgumentError(StrCat(Quote(address), " ", bad.why));
    }
  }
  return Endpoint{*addr, *port};
}

bool IsRedirect(const YamlNode& node) {
  return node.kind == Kind::kMap || (node.kind == Kind::kString && node.text == kRedirect);
}

bool ReadRedirect(Diagnostics& out, const YamlNode& node, Endpoint& target) {
  if (node.kind != Kind::kMap) {
    out.Error(node, StrCat("action: redirect needs a target, did you mean ", kRedirectForm, "?"));
    return false;
  }
  const size_t errors_before = out.errors();
  ReadMap(out, node, "action",
          {{.key = kRedirect,
            .read =
                [&](const YamlNode& value) {
                  const std::optional<std::string> text = ReadString(out, value, kRedirect);
                  if (!text) return;
                  const absl::StatusOr<Endpoint> parsed = ParseTarget(*text);
                  if (parsed.ok()) {
                    target = *parsed;
                  } else {
                    out.Error(value, StrCat("redirect: ", parsed.status().message()));
                  }
                },
            .required = true}});
  return out.errors() == errors_before;
}

}  // namespace

bool ReadAction(Diagnostics& out, const YamlNode& node, Rule& rule) {
  if (IsRedirect(node)) {
    rule.action = TPX_ACTION_REDIRECT;
    return ReadRedirect(out, node, rule.target);
  }
  const std::optional<tpx_action> choice = ReadChoice<tpx_action>(out, node, "action", kActions);
  rule.action = choice.value_or(rule.action);
  return choice.has_value();
}

void ReadDefaultAction(Diagnostics& out, const YamlNode& node, tpx_action& action) {
  if (IsRedirect(node)) {
    out.Error(node,
              StrCat("default cannot redirect, write a last rule without match instead: {name: all, action: ",
                     kRedirectForm, "}"));
    return;
  }
  action = ReadChoice<tpx_action>(out, node, "default", kDefaultActions).value_or(action);
}

}  // namespace tpx::policy
