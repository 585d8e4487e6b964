// SPDX-License-Identifier: Apache-2.0
#include "flow_arguments.h"

#include <netinet/in.h>

#include <algorithm>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"
#include "tpx/app/explain.h"
#include "tpx/app/trace.h"
#include "tpx/base/mac.h"
#include "tpx/base/status.h"
#include "tpx/base/strings.h"

namespace tpx::cli {
namespace {

// Of a client that lets its kernel choose.
constexpr uint16_t kSomeSourcePort = 50000;

absl::StatusOr<uint8_t> ParseProtocol(const std::string& text) {
  if (text == "tcp") return IPPROTO_TCP;
  if (text == "udp") return IPPROTO_UDP;
  if (text == "icmp") return IPPROTO_ICMP;
  uint32_t number = 0;
  const bool is_number = std::all_of(text.begin(), text.end(), absl::ascii_isdigit) &&
                         absl::SimpleAtoi(text, &number) && number <= 255;
  if (!is_number)
    return absl::InvalidArgumentError(
        StrCat("there is no protocol ", Quote(text), ": expected tcp, udp, icmp or a number from 0 to 255"));
  return number == IPPROTO_ICMPV6 ? uint8_t{IPPROTO_ICMP} : static_cast<uint8_t>(number);
}

// RFC 8200: the protocol is behind it.
bool IsExtensionHeader(uint8_t proto) {
  return proto == IPPROTO_HOPOPTS || proto == IPPROTO_ROUTING || proto == IPPROTO_FRAGMENT ||
         proto == IPPROTO_AH || proto == IPPROTO_DSTOPTS;
}

absl::StatusOr<uint16_t> ParsePort(std::string_view text, const std::string& whole) {
  uint32_t port = 0;
  if (!std::all_of(text.begin(), text.end(), absl::ascii_isdigit) || !absl::SimpleAtoi(ToAbsl(text), &port) ||
      port == 0 || port > 65535)
    return absl::InvalidArgumentError(
        StrCat("port of ", Quote(whole), ": expected a number from 1 to 65535"));
  return static_cast<uint16_t>(port);
}

// "192.0.2.1", "192.0.2.1:80", "2001:db8::1", "[2001:db8::1]", "[2001:db8::1]:80"; port 0: none given.
absl::StatusOr<Endpoint> ParseEnd(const std::string& text) {
  std::string_view address = text, port;
  bool has_port = false;
  const size_t colon = address.rfind(':'), bracket = address.rfind(']');
  const bool brackets = address.starts_with('[') && bracket != address.npos;
  if (brackets) {
    has_port = bracket + 1 < address.size() && address[bracket + 1] == ':';
    if (!has_port && bracket + 1 != address.size())
      return absl::InvalidArgumentError(StrCat(Quote(text), ": expected [2001:db8::1]:443"));
    if (has_port) port = address.substr(bracket + 2);
    address = address.substr(1, bracket - 1);
  } else if (colon != address.npos && address.find(':') == colon) {
    has_port = true;
    port = address.substr(colon + 1);
    address = address.substr(0, colon);
  }
  const absl::StatusOr<IpAddr> addr = IpAddr::Parse(address);
  if (!addr.ok() || (brackets && addr->is_v4()))
    return absl::InvalidArgumentError(
        StrCat(Quote(text),
               " is no address: expected 192.0.2.2:40000 or [2001:db8::2]:40000, without a port "
               "where the protocol has none"));
  Endpoint end{.addr = *addr, .port = 0};
  if (has_port) {
    TPX_ASSIGN_OR_RETURN(end.port, ParsePort(port, text));
  }
  return end;
}

absl::StatusOr<uint32_t> ParseMark(const std::string& text) {
  uint32_t mark = 0;
  absl::string_view digits = text;
  const bool hex = absl::ConsumePrefix(&digits, "0x") || absl::ConsumePrefix(&digits, "0X");
  if (hex ? absl::SimpleHexAtoi(digits, &mark) : absl::SimpleAtoi(digits, &mark)) return mark;
  return absl::InvalidArgumentError(
      StrCat("--mark ", Quote(text), ": expected a number of 32 bits, such as 16 or 0x10"));
}

absl::StatusOr<uint8_t> ParseDscp(const std::string& text) {
  uint32_t dscp = 0;
  if (!absl::SimpleAtoi(text, &dscp) || dscp > 63)
    return absl::InvalidArgumentError(StrCat("--dscp ", Quote(text), ": expected a number from 0 to 63"));
  return static_cast<uint8_t>(dscp);
}

absl::Status CheckPorts(const FlowOptions& options, control::TrialFlow& flow) {
  const bool has_ports = flow.has_ports();
  if (!has_ports && (flow.src.port != 0 || flow.dst.port != 0))
    return absl::InvalidArgumentError(
        StrCat(app::ProtocolName(flow.proto), " has no ports: expected addresses alone"));
  if (has_ports && flow.dst.port == 0) {
    const std::string address = flow.dst.addr.ToString();
    return absl::InvalidArgumentError(StrCat(Quote(options.dst), " has no port: expected ",
                                             flow.dst.addr.is_v4() ? address : StrCat("[", address, "]"),
                                             ":443"));
  }
  if (has_ports && flow.src.port == 0) flow.src.port = kSomeSourcePort;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<control::TrialFlow> ParseFlow(const FlowOptions& options) {
  control::TrialFlow flow;
  TPX_ASSIGN_OR_RETURN(flow.proto, ParseProtocol(options.proto));
  TPX_ASSIGN_OR_RETURN(flow.src, ParseEnd(options.src));
  TPX_ASSIGN_OR_RETURN(flow.dst, ParseEnd(options.dst));
  if (flow.src.addr.is_v4() != flow.dst.addr.is_v4())
    return absl::InvalidArgumentError(
        StrCat(Quote(options.src), " and ", Quote(options.dst), ": expected two IPv4 or two IPv6 addresses"));
  if (!flow.src.addr.is_v4() && IsExtensionHeader(flow.proto))
    return absl::InvalidArgumentError(
        StrCat(uint32_t{flow.proto}, " is an extension header of IPv6, not the protocol behind it"));
  TPX_RETURN_IF_ERROR(CheckPorts(options, flow));
  flow.device = options.device;
  if (!options.mark.empty()) {
    TPX_ASSIGN_OR_RETURN(flow.mark, ParseMark(options.mark));
  }
  if (!options.mac.empty()) {
    const std::optional<MacAddress> mac = ParseMac(options.mac);
    if (!mac)
      return absl::InvalidArgumentError(StrCat("--mac ", Quote(options.mac), ": expected 00:00:5e:00:53:01"));
    flow.mac = *mac;
  }
  if (!options.dscp.empty()) {
    TPX_ASSIGN_OR_RETURN(flow.dscp, ParseDscp(options.dscp));
  }
  if (options.uid.empty() && options.gid.empty() && options.cgroup.empty() && options.exe.empty())
    return flow;
  if (!options.device.empty() || !options.mark.empty() || !options.mac.empty() || !options.dscp.empty() ||
      !flow.has_ports())
    return absl::InvalidArgumentError(
        "a process of the gateway begins TCP and UDP flows, which come in by no device and have no mark");
  TPX_ASSIGN_OR_RETURN(
      flow.owner,
      app::FindOwner(
          {.user = options.uid, .group = options.gid, .cgroup = options.cgroup, .program = options.exe}));
  return flow;
}

}  // namespace tpx::cli
