// SPDX-License-Identifier: Apache-2.0
#include "trace_arguments.h"

#include <netinet/in.h>

#include <algorithm>
#include <string_view>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/time/time.h"
#include "tpx/base/status.h"
#include "tpx/base/strings.h"

namespace tpx::cli {
namespace {

constexpr std::string_view kAny = "any";

absl::Status ParseProtocol(const std::string& text, std::vector<uint8_t>& protocols) {
  if (text.empty() || text == kAny) return absl::OkStatus();
  if (text == "tcp") {
    protocols = {IPPROTO_TCP};
  } else if (text == "udp") {
    protocols = {IPPROTO_UDP};
  } else if (text == "icmp") {
    protocols = {IPPROTO_ICMP, IPPROTO_ICMPV6};
  } else {
    return absl::InvalidArgumentError(
        StrCat("there is no protocol ", Quote(text), ": expected tcp, udp, icmp or any"));
  }
  return absl::OkStatus();
}

// At most `max`, from 1 on.
absl::StatusOr<uint64_t> ParseNumber(std::string_view text, uint64_t max, std::string_view what) {
  uint64_t number = 0;
  if (std::all_of(text.begin(), text.end(), absl::ascii_isdigit) && absl::SimpleAtoi(ToAbsl(text), &number) &&
      number >= 1 && number <= max)
    return number;
  return absl::InvalidArgumentError(StrCat(what, " ", Quote(text), ": expected a number from 1 to ", max));
}

struct End {
  std::optional<Prefix> prefix;
  uint16_t port = 0;
};

// Takes ":PORT" away from the end; "[2001:db8::/32]:443" loses its brackets too.
absl::Status SplitPort(const std::string& whole, std::string_view& address, uint16_t& port) {
  const size_t colon = address.rfind(':'), bracket = address.rfind(']');
  std::string_view digits;
  if (address.starts_with('[') && bracket != address.npos) {
    if (bracket + 1 != address.size() && address[bracket + 1] != ':')
      return absl::InvalidArgumentError(StrCat(Quote(whole), ": expected [2001:db8::/32]:443"));
    if (bracket + 1 == address.size()) return address = address.substr(1, bracket - 1), absl::OkStatus();
    digits = address.substr(bracket + 2);
    address = address.substr(1, bracket - 1);
  } else if (colon != address.npos && address.find(':') == colon) {
    digits = address.substr(colon + 1);
    address = address.substr(0, colon);
  } else {
    return absl::OkStatus();
  }
  TPX_ASSIGN_OR_RETURN(const uint64_t number, ParseNumber(digits, 65535, StrCat("port of ", Quote(whole))));
  port = static_cast<uint16_t>(number);
  return absl::OkStatus();
}

// "any", "192.0.2.1", "192.0.2.0/24:80", "any:443", "[2001:db8::/32]:443".
absl::StatusOr<End> ParseEnd(const std::string& text) {
  End end;
  if (text.empty() || text == kAny) return end;
  std::string_view address = text;
  TPX_RETURN_IF_ERROR(SplitPort(text, address, end.port));
  if (address == kAny) return end;
  const absl::StatusOr<Prefix> prefix = Prefix::Parse(address);
  if (!prefix.ok())
    return absl::InvalidArgumentError(
        StrCat(Quote(text), ": ", prefix.status().message(),
               "; expected 192.0.2.2, 192.0.2.0/24:40000, [2001:db8::/32]:40000 or any:443"));
  if (prefix->length == 0)
    return absl::InvalidArgumentError(
        StrCat(Quote(text), " would fit IPv4 too: expected 'any', or 2000::/3"));
  end.prefix = *prefix;
  return end;
}

}  // namespace

absl::StatusOr<TraceRequest> ParseTrace(const TraceOptions& options) {
  TraceRequest request;
  app::TraceFilter& filter = request.filter;
  TPX_RETURN_IF_ERROR(ParseProtocol(options.proto, filter.protocols));
  TPX_ASSIGN_OR_RETURN(const End src, ParseEnd(options.src));
  TPX_ASSIGN_OR_RETURN(const End dst, ParseEnd(options.dst));
  if (src.prefix && dst.prefix && src.prefix->is_v4() != dst.prefix->is_v4())
    return absl::InvalidArgumentError(
        StrCat(Quote(options.src), " and ", Quote(options.dst), ": expected two of IPv4 or two of IPv6"));
  filter.src = src.prefix;
  filter.sport = src.port;
  filter.dst = dst.prefix;
  filter.dport = dst.port;
  filter.rule = options.rule;
  filter.device = options.device;
  filter.reasons = options.reasons;
  filter.all = options.all;
  if (options.all && !options.reasons.empty())
    return absl::InvalidArgumentError("--all and --reason exclude each other");
  TPX_RETURN_IF_ERROR(app::ReasonsOf(filter).status());
  if (!options.sample.empty()) {
    TPX_ASSIGN_OR_RETURN(const uint64_t every, ParseNumber(options.sample, 1'000'000'000, "--sample"));
    filter.every = static_cast<uint32_t>(every);
  }
  if (!options.count.empty()) {
    TPX_ASSIGN_OR_RETURN(request.limits.events, ParseNumber(options.count, 1'000'000'000, "--count"));
  }
  if (!options.duration.empty()) {
    absl::Duration duration;
    if (!absl::ParseDuration(options.duration, &duration) || duration < absl::Milliseconds(1) ||
        duration > absl::Hours(24 * 365))
      return absl::InvalidArgumentError(
          StrCat("--for ", Quote(options.duration), ": expected 500ms, 30s, 5m or 1h"));
    request.limits.duration = absl::ToChronoNanoseconds(duration);
  }
  return request;
}

}  // namespace tpx::cli
