// SPDX-License-Identifier: Apache-2.0
#include "tpx/policy/prefix_list.h"

#include <endian.h>
#include <netinet/in.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <tuple>
#include <utility>

#include "tpx/base/strings.h"

namespace tpx::policy {
namespace {

constexpr int kProgressLines = 1 << 14;

bool IsBlank(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\v' || c == '\f'; }
bool BeginsComment(char c) { return c == '#' || c == ';'; }
bool IsDigit(char c) { return c >= '0' && c <= '9'; }

// A decimal number without leading zeros, at the beginning of `text`, which it takes away.
std::optional<uint32_t> TakeNumber(std::string_view& text, uint32_t max) {
  uint32_t number = 0;
  size_t digits = 0;
  while (digits < text.size() && digits < 3 && IsDigit(text[digits]))
    number = number * 10 + static_cast<uint32_t>(text[digits++] - '0');
  if (digits == 0 || number > max || (digits > 1 && text[0] == '0')) return std::nullopt;
  text.remove_prefix(digits);
  return number;
}

bool Take(std::string_view& text, char c) {
  if (text.empty() || text[0] != c) return false;
  text.remove_prefix(1);
  return true;
}

// What is not a faultless IPv4 prefix is left to Prefix::Parse, which takes ten times as long.
std::optional<Prefix> ParseV4(std::string_view text) {
  uint32_t address = 0;
  for (int i = 0; i < 4; ++i) {
    if (i > 0 && !Take(text, '.')) return std::nullopt;
    const std::optional<uint32_t> byte = TakeNumber(text, 255);
    if (!byte) return std::nullopt;
    address = address << 8 | *byte;
  }
  uint32_t length = 32;
  if (Take(text, '/')) {
    const std::optional<uint32_t> given = TakeNumber(text, 32);
    if (!given) return std::nullopt;
    length = *given;
  }
  const uint32_t host_bits = length == 32 ? 0 : ~uint32_t{0} >> length;
  if (!text.empty() || (address & host_bits) != 0) return std::nullopt;
  return Prefix{IpAddr{.raw = {{0, 0, htonl(0xffff), htonl(address)}}}, static_cast<uint8_t>(96 + length)};
}

// The prefix of a line; nothing for a line without one or with an error, which is reported.
class Line {
 public:
  Line(std::string_view text, int number, const PrefixListReader& reader)
      : text_(text), number_(number), reader_(reader) {}

  std::optional<Prefix> Parse() {
    if (text_.size() > kMaxSetLineBytes) {
      return Fail(kMaxSetLineBytes, StrCat("the line is longer than ", kMaxSetLineBytes, " bytes"));
    }
    const size_t begin = SkipBlanks(0);
    if (AtEnd(begin)) return std::nullopt;
    size_t end = begin;
    while (!AtEnd(end) && !IsBlank(text_[end])) ++end;
    const std::string_view token = text_.substr(begin, end - begin);
    std::optional<Prefix> prefix = ParseV4(token);
    if (!prefix) {
      const absl::StatusOr<Prefix> parsed = Prefix::Parse(token);
      if (!parsed.ok()) return Fail(begin, std::string(parsed.status().message()));
      prefix = *parsed;
    }
    const size_t behind = SkipBlanks(end);
    if (AtEnd(behind)) return prefix;
    return Fail(behind, StrCat("unexpected ", Quote(text_.substr(behind)), " behind ", Quote(token),
                               ": one prefix a line, comments begin with '#' or ';'"));
  }
  bool go_on() const { return go_on_; }

 private:
  bool AtEnd(size_t at) const { return at == text_.size() || BeginsComment(text_[at]); }
  size_t SkipBlanks(size_t at) const {
    while (at < text_.size() && IsBlank(text_[at])) ++at;
    return at;
  }
  std::nullopt_t Fail(size_t at, std::string message) {
    go_on_ = reader_.on_error(number_, static_cast<int>(at) + 1, std::move(message));
    return std::nullopt;
  }

  std::string_view text_;
  int number_;
  const PrefixListReader& reader_;
  bool go_on_ = true;
};

// The address as two numbers, which compare much faster than sixteen bytes.
std::pair<uint64_t, uint64_t> Halves(const IpAddr& addr) {
  uint64_t halves[2];
  memcpy(halves, &addr.raw, sizeof(halves));
  return {be64toh(halves[0]), be64toh(halves[1])};
}

bool Before(const Prefix& a, const Prefix& b) {
  const auto [a_high, a_low] = Halves(a.addr);
  const auto [b_high, b_low] = Halves(b.addr);
  if (a_high != b_high) return a_high < b_high;
  return std::tie(a_low, a.length) < std::tie(b_low, b.length);
}

}  // namespace

std::vector<Prefix> ParsePrefixList(std::string_view text, size_t max_prefixes,
                                    const PrefixListReader& reader) {
  constexpr size_t kUsualLine = 16;
  std::vector<Prefix> prefixes;
  prefixes.reserve(std::min(text.size() / kUsualLine, max_prefixes));
  size_t at = 0;
  for (int number = 1; at < text.size(); ++number) {
    const size_t end = std::min(text.find('\n', at), text.size());
    Line line(text.substr(at, end - at), number, reader);
    if (const std::optional<Prefix> prefix = line.Parse()) {
      if (prefixes.size() == max_prefixes) {
        reader.on_error(number, 1, StrCat("more than ", max_prefixes, " prefixes"));
        break;
      }
      prefixes.push_back(*prefix);
    }
    if (!line.go_on()) break;
    at = end + 1;
    if (number % kProgressLines == 0 && reader.on_progress) reader.on_progress(at);
  }
  return prefixes;
}

void MergePrefixes(std::vector<Prefix>& prefixes) {
  if (!std::is_sorted(prefixes.begin(), prefixes.end(), Before)) {
    std::sort(prefixes.begin(), prefixes.end(), Before);
  }
  // What contains a prefix comes before it, and of its family nothing else in between.
  const Prefix* outer[] = {nullptr, nullptr};
  auto kept = prefixes.begin();
  for (const Prefix& prefix : prefixes) {
    const Prefix*& around = outer[prefix.is_v4() ? 1 : 0];
    if (around != nullptr && around->Contains(prefix.addr)) continue;
    *kept = prefix;
    around = &*kept++;
  }
  prefixes.erase(kept, prefixes.end());
}

void AppendPrefixList(const std::vector<Prefix>& prefixes, std::string& text) {
  for (const Prefix& prefix : prefixes) {
    text += prefix.ToString();
    text += '\n';
  }
}

}  // namespace tpx::policy
