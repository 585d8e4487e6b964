// SPDX-License-Identifier: Apache-2.0
#include "tpx/app/trace.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <string_view>

#include "event_view.h"
#include "policy/suggest.h"
#include "tpx/base/status.h"
#include "tpx/base/strings.h"
#include "tpx/control/snapshot.h"
#include "tpx/observe/events.h"
#include "tpx/sys/file_lock.h"

namespace tpx::app {
namespace {

using Clock = std::chrono::steady_clock;

// A trace whose process is killed goes on for so long, and one that nobody reads.
constexpr uint64_t kLeaseNs = 5'000'000'000;
// The programs wake nobody: the ring holds what comes between two looks, 260,000 events a second.
constexpr int kLookMs = 50;

volatile std::sig_atomic_t signalled = 0;

// The first signal ends the trace, the second the process, should its output be stuck.
void WatchSignals() {
  struct sigaction action {};
  action.sa_handler = [](int) { signalled = 1; };
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  signal(SIGPIPE, SIG_IGN);
}

std::vector<std::string_view> ReasonNames() {
  std::vector<std::string_view> names = {"pass", "steer", "drop", "answer"};
  for (int i = 0; i < TPX_REASON_COUNT; ++i)
    names.emplace_back(observe::NameOf(static_cast<tpx_reason>(i)).name);
  return names;
}

// What is said of every packet, not of a decision.
bool IsRoutine(tpx_reason reason) {
  const std::string_view effect = observe::NameOf(reason).effect;
  if (effect == "drop" || effect == "answer") return false;
  switch (reason) {
    case TPX_R_RULE_BYPASS:
    case TPX_R_RULE_PROXY:
    case TPX_R_DOWN_OPEN:
    case TPX_R_BUSY_OPEN:
    case TPX_R_NO_POLICY:
    case TPX_R_COOKIE:
    case TPX_R_LO_BYPASS:
    case TPX_R_LO_PROXY:
    case TPX_R_LO_REDIRECT:
    case TPX_R_LO_DOWN_OPEN:
    case TPX_R_LO_UNABLE_OPEN:
      return false;
    default:
      return true;
  }
}

void SetPrefix(const std::optional<Prefix>& prefix, tpx_addr& addr, tpx_addr& mask) {
  if (!prefix) return;
  addr = prefix->addr.raw;
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned bits = std::clamp(int{prefix->length} - static_cast<int>(32 * i), 0, 32);
    mask.w[i] = htonl(bits == 0 ? 0 : ~uint32_t{0} << (32 - bits));
  }
}

std::optional<ino_t> Inode(const std::string& path) {
  struct stat st {};
  if (stat(path.c_str(), &st) != 0) return std::nullopt;
  return st.st_ino;
}

// Waits for that, or for a signal.
bool IsReaderGone(int wait_ms) {
  pollfd out{.fd = STDOUT_FILENO, .events = 0, .revents = 0};
  return poll(&out, 1, wait_ms) > 0 && (out.revents & POLLERR) != 0;
}

absl::Status CheckLoaded(const control::Paths& paths) {
  TPX_ASSIGN_OR_RETURN(const control::StateSnapshot state, control::Snapshot(paths));
  if (!state.loaded)
    return absl::NotFoundError("nothing is loaded; 'tpx-bpf load' or 'tpx-bpf run' does that");
  if (state.abi_version != 0 && state.abi_version != TPX_ABI_VERSION)
    return absl::FailedPreconditionError(state.problems.front());
  return absl::OkStatus();
}

class Trace {
 public:
  static absl::StatusOr<Trace> Open(const control::Paths& paths, const TraceFilter& filter);

  absl::StatusOr<TraceSummary> Run(const TraceLimits& limits, const TraceOutput& output);

 private:
  Trace(const TraceFilter& filter, std::string pin, sys::FileLock lock, EventNames names,
        observe::TraceStream stream)
      : filter_(filter),
        pin_(std::move(pin)),
        lock_(std::move(lock)),
        names_(std::move(names)),
        stream_(std::move(stream)),
        pin_inode_(Inode(pin_)) {}

  absl::Status Begin();
  absl::Status FollowReload(const TraceOutput& output);
  absl::Status Show(const TraceLimits& limits, const TraceOutput& output);
  bool IsOver(const TraceLimits& limits) const { return limits.events != 0 && shown_ >= limits.events; }

  const TraceFilter filter_;
  std::string pin_;
  sys::FileLock lock_;
  EventNames names_;
  observe::TraceStream stream_;
  std::optional<ino_t> pin_inode_;
  uint64_t shown_ = 0;
  bool has_rule_ = true;
};

absl::StatusOr<Trace> Trace::Open(const control::Paths& paths, const TraceFilter& filter) {
  TPX_RETURN_IF_ERROR(CheckLoaded(paths));
  auto lock = sys::FileLock::Acquire(StrCat(paths.state, "/trace.lock"), std::chrono::milliseconds(0));
  if (!lock.ok()) return Annotate(lock.status(), "a trace of this instance is already running");
  TPX_ASSIGN_OR_RETURN(EventNames names, EventNames::Open(paths));
  TPX_ASSIGN_OR_RETURN(observe::TraceStream stream, observe::TraceStream::Open(paths.pins));
  Trace trace(filter, StrCat(paths.pins, "/tpx_trace"), *std::move(lock), std::move(names),
              std::move(stream));
  TPX_RETURN_IF_ERROR(trace.Begin());
  return trace;
}

absl::Status Trace::Begin() {
  tpx_trace wanted{};
  wanted.every = filter_.every;
  wanted.counter = TPX_NO_RULE;
  TPX_ASSIGN_OR_RETURN(const std::vector<bool> reasons, ReasonsOf(filter_));
  for (size_t i = 0; i < reasons.size(); ++i)
    if (reasons[i]) wanted.reasons[i / 64] |= uint64_t{1} << i % 64;
  SetPrefix(filter_.src, wanted.src, wanted.src_mask);
  SetPrefix(filter_.dst, wanted.dst, wanted.dst_mask);
  wanted.sport = htons(filter_.sport);
  wanted.dport = htons(filter_.dport);
  for (size_t i = 0; i < std::size(wanted.proto) && !filter_.protocols.empty(); ++i)
    wanted.proto[i] = filter_.protocols[std::min(i, filter_.protocols.size() - 1)];
  if (!filter_.device.empty()) {
    wanted.ifindex = if_nametoindex(filter_.device.c_str());
    if (wanted.ifindex == 0) return absl::NotFoundError(StrCat("there is no device ", Quote(filter_.device)));
  }
  if (!filter_.rule.empty()) {
    const std::optional<uint32_t> counter = names_.CounterOf(filter_.rule);
    const std::vector<std::string> known = names_.rules();
    if (!counter)
      return absl::NotFoundError(StrCat("there is no rule ", Quote(filter_.rule),
                                        policy::Suggestion(filter_.rule, {known.begin(), known.end()})));
    wanted.counter = *counter;
  }
  return stream_.Begin(wanted, kLeaseNs);
}

absl::Status Trace::FollowReload(const TraceOutput& output) {
  const absl::StatusOr<bool> changed = names_.Follow();
  // The file is being written, or goes with the pins: the next look tells.
  if (!changed.ok() || !*changed || filter_.rule.empty()) return absl::OkStatus();
  const std::optional<uint32_t> counter = names_.CounterOf(filter_.rule);
  if (counter.has_value() != has_rule_)
    output.note(StrCat("rule ", Quote(filter_.rule),
                       has_rule_ ? " is not in the new policy: nothing fits until a reload brings it back"
                                 : " is in the policy again"));
  has_rule_ = counter.has_value();
  // No rule has the counter TPX_MAX_COUNTERS.
  stream_.FollowRule(counter.value_or(TPX_MAX_COUNTERS));
  return absl::OkStatus();
}

absl::Status Trace::Show(const TraceLimits& limits, const TraceOutput& output) {
  return stream_.Drain([&](const tpx_event& event) {
    output.show(names_.ViewOf(event));
    ++shown_;
    return !IsOver(limits);
  });
}

absl::StatusOr<TraceSummary> Trace::Run(const TraceLimits& limits, const TraceOutput& output) {
  TraceSummary summary;
  const Clock::time_point begun = Clock::now();
  WatchSignals();
  output.note("listening; Ctrl-C ends it");
  bool reads = true, pinned = true;
  while (reads && pinned && signalled == 0 && !IsOver(limits)) {
    if (limits.duration.count() != 0 && Clock::now() - begun >= limits.duration) break;
    if (IsReaderGone(kLookMs)) break;
    pinned = Inode(pin_) == pin_inode_;
    if (!stream_.Renew(kLeaseNs)) ++summary.pauses;
    TPX_RETURN_IF_ERROR(FollowReload(output));
    TPX_RETURN_IF_ERROR(Show(limits, output));
    reads = output.flush();
  }
  // What came before the end of the lease.
  stream_.End();
  if (reads) TPX_RETURN_IF_ERROR(Show(limits, output));
  TPX_ASSIGN_OR_RETURN(const observe::EventCounts counts, stream_.Counts());
  summary.shown = shown_;
  summary.reader_gone = IsReaderGone(0);
  summary.lost = counts.lost;
  summary.sampled_out = counts.matched - counts.sent - counts.lost;
  if (!pinned) summary.notes.emplace_back("detached by another process");
  return summary;
}

}  // namespace

absl::StatusOr<std::vector<bool>> ReasonsOf(const TraceFilter& filter) {
  std::vector<bool> wanted(TPX_REASON_COUNT);
  for (size_t i = 0; i < wanted.size() && filter.reasons.empty(); ++i)
    wanted[i] = filter.all || !IsRoutine(static_cast<tpx_reason>(i));
  for (const std::string& asked : filter.reasons) {
    bool known = false;
    for (size_t i = 0; i < wanted.size(); ++i) {
      const observe::ReasonName& reason = observe::NameOf(static_cast<tpx_reason>(i));
      if (asked != reason.name && asked != reason.effect) continue;
      known = wanted[i] = true;
    }
    if (!known)
      return absl::InvalidArgumentError(
          StrCat("there is no reason ", Quote(asked), policy::Suggestion(asked, ReasonNames())));
  }
  return wanted;
}

absl::StatusOr<TraceSummary> RunTrace(const control::Paths& paths, const TraceFilter& filter,
                                      const TraceLimits& limits, const TraceOutput& output) {
  TPX_RETURN_IF_ERROR(ReasonsOf(filter).status());
  TPX_ASSIGN_OR_RETURN(Trace trace, Trace::Open(paths, filter));
  return trace.Run(limits, output);
}

}  // namespace tpx::app
