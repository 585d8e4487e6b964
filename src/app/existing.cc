// SPDX-License-Identifier: Apache-2.0
#include "tpx/app/existing.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "progress_line.h"
#include "tpx/app/source.h"
#include "tpx/base/status.h"
#include "tpx/base/strings.h"

namespace tpx::app {
namespace {

using control::ExistingFlows;
using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kLook{200};

std::string Counted(size_t tcp, size_t udp) {
  return StrCat(tcp, tcp == 1 ? " TCP session and " : " TCP sessions and ", udp,
                udp == 1 ? " UDP flow" : " UDP flows");
}

absl::Status Abort(ExistingFlows& flows, const Tell& tell) {
  TPX_ASSIGN_OR_RETURN(const ExistingFlows::Number ended, flows.Abort());
  tell(StrCat("ended ", Counted(ended.tcp, ended.udp)));
  return absl::OkStatus();
}

// The table of sockets may be large: looking at it must not take all the time there is.
absl::Status Drain(const control::Paths& paths, ExistingFlows& flows, const Tell& tell) {
  TPX_ASSIGN_OR_RETURN(const control::StoredConfig stored, control::LoadedConfig(paths));
  const std::chrono::milliseconds patience(stored.config.proxy.timeouts.drain_ms);
  const Clock::time_point end = Clock::now() + patience;
  tell(StrCat("waiting for them for at most ", std::chrono::ceil<std::chrono::seconds>(patience).count(),
              " s"));
  ProgressLine progress(STDERR_FILENO);
  while (true) {
    const Clock::time_point begun = Clock::now();
    TPX_ASSIGN_OR_RETURN(const ExistingFlows::Number left, flows.Left());
    // The last look was for what the proxy does after the last flow, too.
    if (left.none() || begun >= end) break;
    progress.Show(StrCat(Counted(left.tcp, left.udp), " left, ",
                         std::chrono::ceil<std::chrono::seconds>(end - begun).count(), " s"));
    const auto pause = std::max<Clock::duration>(kLook, 4 * (Clock::now() - begun));
    std::this_thread::sleep_until(std::min(end, begun + pause));
  }
  return Abort(flows, tell);
}

absl::Status Treat(const control::Paths& paths, Existing existing, ExistingFlows& flows, const Tell& tell) {
  TPX_ASSIGN_OR_RETURN(const control::FlowCounts counts, flows.FindChanged());
  const size_t tcp = counts.tcp.changed - counts.tcp.uncertain;
  const size_t udp = counts.udp.changed - counts.udp.uncertain;
  tell(StrCat("judged otherwise now: ", Counted(tcp, udp)));
  if (counts.tcp.uncertain + counts.udp.uncertain > 0) {
    tell(StrCat("kept, because rules ask for the link, which is not known any more: ",
                Counted(counts.tcp.uncertain, counts.udp.uncertain)));
  }
  if (tcp + udp == 0) return absl::OkStatus();
  return existing == Existing::kDrain ? Drain(paths, flows, tell) : Abort(flows, tell);
}

}  // namespace

absl::Status ReloadWith(const control::Paths& paths, Existing existing, const Reloading& reload,
                        const Tell& tell) {
  std::optional<ExistingFlows> flows;
  if (existing != Existing::kKeep) {
    TPX_ASSIGN_OR_RETURN(flows, ExistingFlows::Before(paths));
  }
  TPX_ASSIGN_OR_RETURN(const control::ReloadReport report, reload());
  for (const std::string& line : report.lines) tell(line);
  if (!flows) return absl::OkStatus();
  return Annotate(Treat(paths, existing, *flows, tell), "the new policy is live, but the existing flows");
}

absl::StatusOr<control::FlowDifference> DiffFlows(const control::Paths& paths, const std::string& file,
                                                  const control::FlowVisitor& visit) {
  TPX_ASSIGN_OR_RETURN(const Source source, FindSource({.config = file, .lan = {}, .wan = {}}, paths, false));
  return control::CompareFlows(paths, source.config, visit);
}

}  // namespace tpx::app
