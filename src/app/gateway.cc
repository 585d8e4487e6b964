// SPDX-License-Identifier: Apache-2.0
#include "tpx/app/gateway.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <future>
#include <optional>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "descriptor_budget.h"
#include "flow_log.h"
#include "kernel_decisions.h"
#include "kernel_translations.h"
#include "signals.h"
#include "tpx/base/log.h"
#include "tpx/control/attached.h"
#include "tpx/control/watchers.h"
#include "tpx/data/worker.h"
#include "tpx/sys/file_lock.h"
#include "tpx/sys/notify.h"
#include "tpx/sys/rlimit.h"
#include "tpx/sys/rtnl.h"

namespace tpx::app {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kTickMs = 1000;
// For changes of the network: meanwhile nobody reads the signals.
constexpr std::chrono::milliseconds kLockWait{200};
// Devices that are re-created come back within this time; later the process
// ends with an error, so that its supervisor knows.
constexpr auto kDeviceGrace = std::chrono::seconds(10);

uint32_t CpuCount() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  return std::max(1, CPU_COUNT(&set));
}

uint32_t WorkerCount(const policy::Proxy& proxy) {
  return std::min<uint32_t>(proxy.workers != 0 ? proxy.workers : CpuCount(), TPX_MAX_WORKERS);
}

// The file exists once connection tracking is built in or loaded; its number is
// above zero only while something in this namespace is tracked.
UniqueFd OpenConntrackCount() {
  return UniqueFd(open("/proc/sys/net/netfilter/nf_conntrack_count", O_RDONLY | O_CLOEXEC));
}

uint32_t SessionsPerClient(const policy::Proxy& proxy, const DescriptorBudget& budget) {
  const uint32_t wanted = proxy.max_udp_sessions_per_client;
  return wanted != 0 ? wanted : std::max(1U, budget.udp_sessions / 4);
}

// Masqueraded UDP sessions of each worker: a port is left for others for nine that are used.
uint32_t MasqueradedEach(uint32_t workers) {
  return std::max<uint32_t>(1, sys::EphemeralPorts() / 10 * 9 / workers);
}

// The kernel side forgets a flow after the last session that serves it.
uint32_t UdpFlowSeconds(const policy::Timeouts& t) {
  return (std::max({t.udp_one_way_ms, t.udp_answered_ms, t.udp_stream_ms}) + 999) / 1000;
}

class Gateway {
 public:
  Gateway(control::Attached attached, absl::StatusOr<control::Watchers> watchers, KernelDecisions decisions,
          KernelTranslations translations, const policy::Config& config)
      : attached_(std::move(attached)),
        watchers_(std::move(watchers)),
        decisions_(std::move(decisions)),
        translations_(std::move(translations)),
        config_(config),
        conntrack_count_(OpenConntrackCount()) {}

  ~Gateway() {
    StopAll();
    Join();
  }

  // BPF learns of the workers when all of them serve.
  absl::Status Start();
  absl::Status Serve(int signal_fd, FlowLog& flow_log);

 private:
  data::WorkerOptions OptionsFor(uint32_t id, uint32_t workers, const DescriptorBudget& budget,
                                 uint16_t port);
  DescriptorBudget FitLimits(uint32_t workers);
  absl::Status StartThreads();
  absl::Status CheckKernelSide();
  void NoteChanges(sys::RtnlMonitor& monitor);
  void FollowNetwork();
  void LookForWatchers();
  void OnSignals(int count);
  void StopAll();
  bool Finished() const { return running_.load() == 0; }
  void Join();

  control::Attached attached_;
  absl::StatusOr<control::Watchers> watchers_;  // an error: the kernel cannot be asked
  std::optional<uint32_t> found_;               // of them, bits of tpx_watcher
  KernelDecisions decisions_;
  KernelTranslations translations_;
  data::IcmpBudget icmp_budget_;
  const policy::Config config_;
  UniqueFd conntrack_count_;
  std::vector<std::unique_ptr<data::Worker>> workers_;
  std::vector<std::thread> threads_;
  std::atomic<uint32_t> running_{0};
  bool draining_ = false;
  sys::RtnlMonitor::Changes to_follow_;
  bool is_behind_ = false;  // the last try to follow them failed
  Clock::time_point devices_seen_ = Clock::now();
};

DescriptorBudget Gateway::FitLimits(uint32_t workers) {
  const policy::Proxy& proxy = config_.proxy;
  const DescriptorWishes wishes{.workers = workers,
                                .sessions = proxy.max_sessions,
                                .udp_sessions = proxy.max_udp_sessions,
                                .pipes = proxy.pipes,
                                .reply_sockets = proxy.udp_reply_sockets};
  const bool bounded = wishes.sessions != 0 && wishes.udp_sessions != 0;
  const uint64_t wanted = bounded ? DescriptorsFor(wishes) : 0;
  const uint64_t limit = sys::RaiseDescriptorLimit(wanted);
  const DescriptorBudget budget = DivideDescriptors(limit, wishes);
  sys::ReserveDescriptorTable(std::min(limit, bounded ? wanted : limit));
  if (budget.lowered)
    LogWarning("the descriptor limit is ", limit, " and cannot be raised to ", DescriptorsFor(wishes),
               ": the session limits are lowered to ", budget.sessions * workers, " (TCP) and ",
               budget.udp_sessions * workers, " (UDP); raise LimitNOFILE= or ulimit -n");
  return budget;
}

data::WorkerOptions Gateway::OptionsFor(uint32_t id, uint32_t workers, const DescriptorBudget& budget,
                                        uint16_t port) {
  const policy::Timeouts& t = config_.proxy.timeouts;
  return {.id = id,
          .listen_port = port,
          .max_sessions = budget.sessions,
          .max_pipes = budget.pipes,
          .max_udp_sessions = budget.udp_sessions,
          .max_udp_sessions_per_client = SessionsPerClient(config_.proxy, budget),
          .max_udp_masqueraded = MasqueradedEach(workers),
          .max_udp_reply_sockets = budget.reply_sockets,
          .max_descriptors = budget.descriptors,
          .steer_mark = config_.steering.steer_mark,
          .own_mark = config_.steering.own_mark,
          .connect_ms = t.connect_ms,
          .idle_ms = t.idle_ms,
          .half_closed_ms = t.half_closed_ms,
          .udp_one_way_ms = t.udp_one_way_ms,
          .udp_answered_ms = t.udp_answered_ms,
          .udp_stream_ms = t.udp_stream_ms,
          .drain_ms = t.drain_ms,
          .lease_ms = t.lease_ms,
          .keepalive_idle_s = t.keepalive_idle_s,
          .keepalive_interval_s = t.keepalive_interval_s,
          .keepalive_count = t.keepalive_count,
          .shared = attached_.worker(id),
          .conntrack_count_fd = conntrack_count_.get(),
          .decisions = &decisions_,
          .translations = &translations_,
          .upstreams = translations_.upstreams(),
          .affinities = translations_.affinities(),
          .icmp_budget = &icmp_budget_};
}

// Returns when all of them serve: threads may begin to run much later than they are made.
absl::Status Gateway::StartThreads() {
  std::vector<std::future<absl::Status>> begun;
  running_ = static_cast<uint32_t>(workers_.size());
  for (auto& worker : workers_) {
    std::promise<absl::Status> promise;
    begun.push_back(promise.get_future());
    threads_.emplace_back([this, &worker, id = threads_.size(), promise = std::move(promise)]() mutable {
      pthread_setname_np(pthread_self(), absl::StrCat("tpx-worker-", id).c_str());
      const absl::Status status = worker->Begin();
      promise.set_value(status);
      if (status.ok()) worker->Run();
      running_--;
    });
  }
  for (auto& status : begun) TPX_RETURN_IF_ERROR(status.get());
  return absl::OkStatus();
}

absl::Status Gateway::Start() {
  LookForWatchers();
  uint32_t count = WorkerCount(config_.proxy);
  DescriptorBudget budget = FitLimits(count);
  uint16_t port = 0;
  for (uint32_t id = 0; id < count; id++) {
    TPX_ASSIGN_OR_RETURN(auto worker, data::Worker::Create(OptionsFor(id, count, budget, port)));
    port = worker->listen_port();
    workers_.push_back(std::move(worker));
  }
  TPX_RETURN_IF_ERROR(StartThreads());
  for (uint32_t id = 0; id < count; id++) {
    for (uint32_t i = 0; i < TPX_LISTENER_KINDS; i++) {
      const auto kind = static_cast<tpx_listener>(i);
      TPX_RETURN_IF_ERROR(attached_.SetListener(id, kind, workers_[id]->listener_fd(kind)));
    }
  }
  attached_.SetProxy({.workers = count, .port = port, .udp_flow_s = UdpFlowSeconds(config_.proxy.timeouts)});
  LogInfo("serving with ", count, count == 1 ? " worker" : " workers", ", at most ", budget.sessions * count,
          " TCP and ", budget.udp_sessions * count, " UDP sessions");
  if (MasqueradedEach(count) < budget.udp_sessions)
    LogInfo("at most ", MasqueradedEach(count) * count,
            " of the UDP sessions of each family may be masqueraded, by net.ipv4.ip_local_port_range");
  return absl::OkStatus();
}

void Gateway::NoteChanges(sys::RtnlMonitor& monitor) {
  auto changes = monitor.Drain();
  if (!changes.ok()) {
    LogWarning(changes.status().message(), ", looking at all addresses and devices");
    changes = sys::RtnlMonitor::Changes{.links = true, .addresses = true};
  }
  to_follow_.links |= changes->links;
  to_follow_.addresses |= changes->addresses || changes->links;
}

// What cannot be followed now stays to be followed.
void Gateway::FollowNetwork() {
  absl::Status status;
  if (to_follow_.addresses) {
    status = attached_.RefreshLocalAddresses(kLockWait);
    to_follow_.addresses = !status.ok();
  }
  if (to_follow_.links) {
    auto reconciled = attached_.ReconcileDevices(kLockWait);
    to_follow_.links = !reconciled.ok();
    status.Update(reconciled.status());
    if (reconciled.ok())
      for (const std::string& line : *reconciled) LogInfo(line);
  }
  if (!status.ok() && !is_behind_)
    LogWarning("changes of addresses or devices could not be followed, trying again each second: ",
               status.message());
  is_behind_ = !status.ok();
}

// For sessions whose rule says forward: auto.
void Gateway::LookForWatchers() {
  const absl::StatusOr<uint32_t> found = watchers_.ok() ? watchers_->Find() : watchers_.status();
  const uint32_t now = found.value_or(1U << TPX_WATCHER_UNKNOWN);
  attached_.SetWatchers(now);
  if (now == found_) return;
  found_ = now;
  if (!found.ok()) LogInfo(found.status().message());
  LogInfo(now == 0
              ? "nobody would miss what goes past the stack: known UDP sessions may (forward: auto)"
              : absl::StrCat("known UDP sessions stay with the workers (forward: auto), what goes past the "
                             "stack would be missed by: ",
                             absl::StrJoin(control::WatcherNames(now), ", ")));
}

// Somebody may take the kernel side away while we serve: that must not look like success.
absl::Status Gateway::CheckKernelSide() {
  if (!attached_.StillPinned())
    return absl::AbortedError("detached by another process while serving; its sessions were reset");
  if (attached_.HasLanDevice()) devices_seen_ = Clock::now();
  if (Clock::now() - devices_seen_ > kDeviceGrace)
    return absl::UnavailableError("no LAN device is left: every device that the configuration names is gone");
  return absl::OkStatus();
}

void Gateway::StopAll() {
  for (auto& worker : workers_) worker->Stop();
}

void Gateway::OnSignals(int count) {
  for (; count > 0; count--) {
    bool again = std::exchange(draining_, true);
    if (again) {
      LogInfo("stopping at once");
      StopAll();
    } else {
      LogInfo("draining for at most ", config_.proxy.timeouts.drain_ms / 1000.0, " s");
      if (auto s = sys::NotifyServiceManager("STOPPING=1"); !s.ok()) LogWarning(s.message(), ", going on");
      for (auto& worker : workers_) worker->Drain();
    }
  }
}

absl::Status Gateway::Serve(int signal_fd, FlowLog& flow_log) {
  TPX_ASSIGN_OR_RETURN(auto monitor, sys::RtnlMonitor::Open());
  // Whatever changed between load and here was not seen by the monitor.
  TPX_RETURN_IF_ERROR(attached_.RefreshLocalAddresses());
  TPX_RETURN_IF_ERROR(attached_.ReconcileDevices().status());
  TPX_RETURN_IF_ERROR(sys::NotifyServiceManager("READY=1"));
  absl::Status verdict;
  Clock::time_point next_check = Clock::now();
  while (!Finished()) {
    pollfd fds[] = {{signal_fd, POLLIN, 0}, {monitor.fd(), POLLIN, 0}, {flow_log.fd(), POLLIN, 0}};
    if (poll(fds, 3, draining_ ? 20 : kTickMs) < 0 && errno != EINTR) return ErrnoStatus(errno, "poll");
    if (fds[0].revents != 0) OnSignals(DrainSignals(signal_fd));
    if (fds[1].revents != 0 && verdict.ok()) NoteChanges(monitor);
    if (verdict.ok() && !is_behind_) FollowNetwork();
    flow_log.Write();
    if (!verdict.ok() || Clock::now() < next_check) continue;
    next_check = Clock::now() + std::chrono::milliseconds(kTickMs);
    if (is_behind_) FollowNetwork();
    LookForWatchers();
    verdict = CheckKernelSide();
    // Without steering the clients' packets do not come any more: let them know.
    if (!verdict.ok()) StopAll();
  }
  Join();
  attached_.RemoveListeners();
  return verdict;
}

void Gateway::Join() {
  for (std::thread& thread : threads_)
    if (thread.joinable()) thread.join();
}

// What is loaded may have been loaded from another file.
absl::Status EnsureLoaded(const control::Paths& paths, const Source& source) {
  TPX_ASSIGN_OR_RETURN(auto report, control::Load(paths, source.config, source.text));
  for (const std::string& line : report.lines) LogInfo(line);
  if (!report.already_loaded) return absl::OkStatus();
  TPX_ASSIGN_OR_RETURN(auto stored, control::LoadedConfig(paths));
  if (stored.config == source.config) return absl::OkStatus();
  TPX_ASSIGN_OR_RETURN(auto reloaded, control::Reload(paths, source.config, source.text));
  for (const std::string& line : reloaded.lines) LogInfo(line);
  return absl::OkStatus();
}

}  // namespace

control::Paths InstancePaths(const std::string& name) {
  return {.pins = absl::StrCat("/sys/fs/bpf/", name), .state = absl::StrCat("/run/", name)};
}

absl::Status RunGateway(const control::Paths& paths, const Source& source) {
  TPX_ASSIGN_OR_RETURN(UniqueFd signals, TakeOverSignals());
  auto lock = sys::FileLock::Acquire(absl::StrCat(paths.state, "/run.lock"), std::chrono::milliseconds(0));
  if (!lock.ok()) return Annotate(lock.status(), "a proxy of this instance is already running");
  TPX_RETURN_IF_ERROR(EnsureLoaded(paths, source));
  TPX_ASSIGN_OR_RETURN(auto attached, control::Attached::Open(paths));
  auto watchers = control::Watchers::Open(paths);
  TPX_ASSIGN_OR_RETURN(auto decisions, KernelDecisions::Open(paths.pins));
  TPX_ASSIGN_OR_RETURN(auto translations, KernelTranslations::Open(paths.pins));
  TPX_ASSIGN_OR_RETURN(auto flow_log, FlowLog::Open(paths));
  Gateway gateway(std::move(attached), std::move(watchers), std::move(decisions), std::move(translations),
                  source.config);
  TPX_RETURN_IF_ERROR(gateway.Start());
  return gateway.Serve(signals.get(), flow_log);
}

}  // namespace tpx::app
