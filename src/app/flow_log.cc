// SPDX-License-Identifier: Apache-2.0
#include "flow_log.h"

#include "tpx/base/log.h"
#include "tpx/base/status.h"

namespace tpx::app {
namespace {

constexpr uint64_t kLeaseNs = 5'000'000'000;

}  // namespace

absl::StatusOr<FlowLog> FlowLog::Open(const control::Paths& paths) {
  TPX_ASSIGN_OR_RETURN(EventNames names, EventNames::Open(paths));
  TPX_ASSIGN_OR_RETURN(observe::LogStream stream, observe::LogStream::Open(paths.pins));
  stream.Renew(kLeaseNs);
  return FlowLog(std::move(names), std::move(stream));
}

void FlowLog::BeginSecond() {
  if (Clock::now() - second_ < std::chrono::seconds(1)) return;
  second_ = Clock::now();
  lines_ = 0;
  if (left_out_ > 0) LogInfo("flows: ", left_out_, " more were logged by rules and are left out here");
  left_out_ = 0;
}

void FlowLog::WriteOne(const tpx_event& event) {
  BeginSecond();
  if (lines_ >= kLinesPerSecond) {
    left_out_ += 1 + uint64_t{event.skipped};
    return;
  }
  ++lines_;
  const std::string text = Describe(names_.ViewOf(event));
  if (event.skipped == 0) return LogInfo("flow: ", text);
  LogInfo("flow: ", text, "; ", event.skipped, " of this rule before it are left out");
}

void FlowLog::Write() {
  stream_.Renew(kLeaseNs);
  // A name that cannot be read now is written as a number.
  (void)names_.Follow().ok();
  const absl::Status status = stream_.Drain([this](const tpx_event& event) {
    WriteOne(event);
    return true;
  });
  if (!status.ok()) LogWarning(status.message(), ", trying again");
  BeginSecond();
}

}  // namespace tpx::app
