// SPDX-License-Identifier: Apache-2.0
#include "report.h"

#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"

namespace tpx::cli {

int Fail(Env& env, const absl::Status& status) {
  for (absl::string_view line : absl::StrSplit(status.message(), '\n'))
    env.err << "tpx-bpf: " << line << '\n';
  return kFailed;
}

void Warn(Env& env, const std::vector<std::string>& warnings) {
  for (const std::string& warning : warnings) env.err << "tpx-bpf: warning: " << warning << '\n';
}

int Answer(Env& env, const std::vector<std::string>& lines) {
  for (const std::string& line : lines) env.out << line << '\n';
  return kDone;
}

std::string Grouped(uint64_t number) {
  std::string digits = absl::StrFormat("%u", number);
  for (int at = static_cast<int>(digits.size()) - 3; at > 0; at -= 3) digits.insert(at, 1, ',');
  return digits;
}

std::string Bytes(uint64_t bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  int unit = 0;
  while (value >= 1024 && unit < 4) value /= 1024, unit++;
  return unit == 0 ? absl::StrFormat("%u B", bytes) : absl::StrFormat("%.1f %s", value, kUnits[unit]);
}

}  // namespace tpx::cli
