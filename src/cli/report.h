// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "env.h"

namespace tpx::cli {

// Prints the error, each of its lines with the program's name; returns kFailed.
int Fail(Env& env, const absl::Status& status);

void Warn(Env& env, const std::vector<std::string>& warnings);

// Prints the lines of an answer; returns kDone.
int Answer(Env& env, const std::vector<std::string>& lines);

// 1234567 → "1,234,567"
std::string Grouped(uint64_t number);

// 1536 → "1.5 KiB"
std::string Bytes(uint64_t bytes);

}  // namespace tpx::cli
