// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

#include "tpx/base/strings.h"

namespace tpx {

enum class LogLevel { kError, kWarning, kInfo, kDebug };

// Lines go to standard error as "<level> <message>", with the systemd priority
// prefix when JOURNAL_STREAM is set. A line is written with one write(2) and is
// lost rather than waited for when the reader is slow. At most 100 lines a
// second are written; the next line after a pause says how many were left out.
// Thread-safe. Not for the packet path.
void SetLogLevel(LogLevel level);
void LogLine(LogLevel level, std::string_view message);

template <typename... Args>
void LogError(const Args&... args) {
  LogLine(LogLevel::kError, StrCat(args...));
}
template <typename... Args>
void LogWarning(const Args&... args) {
  LogLine(LogLevel::kWarning, StrCat(args...));
}
template <typename... Args>
void LogInfo(const Args&... args) {
  LogLine(LogLevel::kInfo, StrCat(args...));
}
template <typename... Args>
void LogDebug(const Args&... args) {
  LogLine(LogLevel::kDebug, StrCat(args...));
}

}  // namespace tpx
