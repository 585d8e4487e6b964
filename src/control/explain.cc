// SPDX-License-Identifier: Apache-2.0
#include "tpx/control/explain.h"

#include <net/if.h>
#include <netinet/in.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <iterator>
#include <span>
#include <utility>

#include "absl/strings/str_join.h"
#include "loaded.h"
#include "local_addresses.h"
#include "plan.h"
#include "publish.h"
#include "state.h"
#include "tpx/base/clock.h"
#include "tpx/base/status.h"
#include "tpx/base/strings.h"
#include "tpx/bpf/maps.h"
#include "tpx/bpf/object.h"
#include "tpx/bpf/trial.h"
#include "tpx/control/watchers.h"
#include "tpx/sys/cgroup.h"
#include "tpx/sys/identity.h"
#include "tpx/sys/mount.h"
#include "trial_frame.h"

namespace tpx::control {
namespace {

using bpf::Access;

// The programs only read these. What they write stays out: counters, flows, limits.
constexpr const char* kLiveness[] = {"tpx_workers", "tpx_listeners", "tpx_devices"};
constexpr const char* kLivenessAndPolicy[] = {"tpx_workers",  "tpx_listeners", "tpx_devices",
                                              "tpx_local",    "tpx_control",   "tpx_tables",
                                              "tpx_prefixes", "tpx_attributes"};
constexpr uint32_t kCandidateGeneration = 1;

// The programs with their maps, pinned where only this object finds them.
struct Trial {
  UniqueFd directory;
  bpf::Object object;
  std::string pins() const { return sys::PathOf(directory); }
};

absl::StatusOr<Trial> MakeTrial(const std::string& live_pins, std::span<const char* const> shared,
                                const policy::Steering& steering) {
  TPX_ASSIGN_OR_RETURN(bpf::Object object, bpf::Object::LoadForTrial(live_pins, shared,
                                                                     {.steer_mark = steering.steer_mark,
                                                                      .mark_mask = steering.mark_mask,
                                                                      .own_mark = steering.own_mark,
                                                                      .sees_no_socket = true}));
  TPX_ASSIGN_OR_RETURN(UniqueFd directory, sys::OpenDetachedBpffs());
  Trial trial{.directory = std::move(directory), .object = std::move(object)};
  TPX_RETURN_IF_ERROR(trial.object.PinMaps(trial.pins()));
  return trial;
}

void NoteOtherBuild(const State& state, Explanation& explanation) {
  if (state.build != bpf::BuildId())
    explanation.notes.emplace_back(
        "the loaded programs are those of another build; this is the answer of this one");
}

bool IsLan(const Device& device) { return device.role == Role::kLan; }

absl::StatusOr<int> ChooseDevice(const std::vector<Device>& devices, const TrialFlow& flow,
                                 Explanation& explanation) {
  const bool chosen = !flow.device.empty();
  const auto device = std::find_if(devices.begin(), devices.end(), [&](const Device& d) {
    return IsLan(d) && (chosen ? d.name == flow.device : if_nametoindex(d.name.c_str()) != 0);
  });
  if (!chosen && device == devices.end())
    return absl::FailedPreconditionError("no LAN device is there to come in by; name one with --in");
  explanation.device = chosen ? flow.device : device->name;
  const unsigned ifindex = if_nametoindex(explanation.device.c_str());
  if (ifindex == 0) return absl::NotFoundError(StrCat("there is no device ", Quote(explanation.device)));
  if (device == devices.end())
    explanation.notes.push_back(StrCat(explanation.device,
                                       " is no LAN device of the gateway: "
                                       "this is what would become of the packet if it were one"));
  return static_cast<int>(ifindex);
}

template <typename T>
T Load(T& value) {
  return std::atomic_ref(value).load(std::memory_order_acquire);
}

absl::Status CountWorkers(const std::string& live_pins, Explanation& explanation) {
  TPX_ASSIGN_OR_RETURN(auto control, bpf::OpenControl(live_pins, Access::kReadWrite));
  TPX_ASSIGN_OR_RETURN(auto workers, bpf::OpenWorkers(live_pins, Access::kReadWrite));
  const uint64_t now_ns = MonotonicNs();
  explanation.workers = std::min<uint32_t>(Load(control[0].n_workers), TPX_MAX_WORKERS);
  explanation.listen_port = Load(control[0].listen_port);
  explanation.watchers = Load(control[0].watchers);
  for (uint32_t id = 0; id < explanation.workers; ++id) {
    const uint32_t state = Load(workers[id].state);
    if (state == TPX_WORKER_ABSENT || Load(workers[id].deadline_ns) < now_ns) continue;
    ++explanation.alive;
    if (state == TPX_WORKER_SERVING) ++explanation.serving;
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> WasCounted(const bpf::PerCpuArray<tpx_count>& counts, uint32_t index) {
  TPX_ASSIGN_OR_RETURN(const std::vector<tpx_count> values, counts.Lookup(index));
  return std::any_of(values.begin(), values.end(), [](const tpx_count& count) { return count.packets != 0; });
}

absl::StatusOr<tpx_reason> ReadReason(const std::string& pins) {
  TPX_ASSIGN_OR_RETURN(const auto counters, bpf::OpenCounters(pins, Access::kReadOnly));
  for (uint32_t reason = 0; reason < TPX_REASON_COUNT; ++reason) {
    TPX_ASSIGN_OR_RETURN(const bool counted, WasCounted(counters, reason));
    if (counted) return static_cast<tpx_reason>(reason);
  }
  return absl::InternalError("the program counted no reason");
}

absl::StatusOr<std::optional<ExplainedRule>> ReadRule(const std::string& pins, const RuleCounters& counters,
                                                      const policy::Policy& policy) {
  TPX_ASSIGN_OR_RETURN(const auto hits, bpf::OpenRuleHits(pins, Access::kReadOnly));
  for (const policy::Rule& rule : policy.rules) {
    const auto counter = counters.find(rule.name);
    if (counter == counters.end()) continue;
    TPX_ASSIGN_OR_RETURN(const bool counted, WasCounted(hits, counter->second));
    if (counted)
      return ExplainedRule{.name = rule.name,
                           .action = rule.action,
                           .line = rule.line,
                           .limit = rule.limit,
                           .forward = rule.forward};
  }
  return std::nullopt;
}

// What was decided for a SYN is handed over in a slot of the CPU's own; what was
// for a datagram is kept with the flow.
absl::StatusOr<std::optional<tpx_verdict>> ReadVerdict(const std::string& pins, const tpx_flow& flow) {
  TPX_ASSIGN_OR_RETURN(const auto flows, bpf::OpenFlows(pins, Access::kReadOnly));
  const absl::StatusOr<tpx_verdict> kept = flows.Lookup(flow);
  if (kept.ok()) return *kept;
  if (!absl::IsNotFound(kept.status())) return kept.status();
  TPX_ASSIGN_OR_RETURN(const auto handoff, bpf::OpenHandoff(pins, Access::kReadOnly));
  for (uint32_t slot = 0; slot < TPX_HANDOFF_SLOTS; ++slot) {
    TPX_ASSIGN_OR_RETURN(const std::vector<tpx_handoff> values, handoff.Lookup(slot));
    for (const tpx_handoff& value : values)
      if (std::memcmp(&value.flow, &flow, sizeof(flow)) == 0) return value.verdict;
  }
  return std::nullopt;
}

// The ids of a cgroup and those above it, from the root on.
absl::Status FillCgroups(const std::string& path, tpx_local_trial& trial) {
  size_t level = 0;
  for (size_t end = 1; level < TPX_CGROUP_LEVELS; ++level) {
    TPX_ASSIGN_OR_RETURN(trial.cgroup[level], sys::CgroupId(level == 0 ? "/" : path.substr(0, end)));
    if (end >= path.size()) return absl::OkStatus();
    end = std::min(path.find('/', level == 0 ? 1 : end + 1), path.size());
  }
  return absl::OkStatus();
}

absl::StatusOr<tpx_local_trial> LocalTrialOf(const TrialFlow& flow) {
  const TrialOwner& owner = *flow.owner;
  tpx_local_trial trial{.link = {}, .flow = KeyOf(flow), .owner = {}, .cgroup = {}};
  trial.owner.uid = owner.uid;
  trial.owner.gid = owner.gid;
  TPX_RETURN_IF_ERROR(FillCgroups(owner.cgroup, trial));
  if (owner.exe.empty()) return trial;
  TPX_ASSIGN_OR_RETURN(const sys::FileIdentity exe, sys::IdentifyFile(owner.exe));
  trial.owner.exe_inode = exe.inode;
  trial.owner.exe_device = exe.device;
  return trial;
}

absl::Status RunLocal(const Trial& trial, const TrialFlow& flow, const RuleCounters& counters,
                      const policy::Config& config, Explanation& explanation) {
  TPX_ASSIGN_OR_RETURN(const tpx_local_trial local, LocalTrialOf(flow));
  TPX_RETURN_IF_ERROR(bpf::RunLocalTrial(trial.object.try_local_fd(), local));
  TPX_ASSIGN_OR_RETURN(explanation.reason, ReadReason(trial.pins()));
  TPX_ASSIGN_OR_RETURN(explanation.rule, ReadRule(trial.pins(), counters, config.policy));
  if (!config.local.enabled) {
    explanation.notes.emplace_back(
        "'local' is off: flows of the gateway's own processes are left alone; this is what would become of "
        "it");
  } else if (flow.owner->cgroup != config.local.cgroup && config.local.cgroup != "/" &&
             !flow.owner->cgroup.starts_with(config.local.cgroup + "/")) {
    explanation.notes.push_back(
        StrCat("'local' is about cgroup ", config.local.cgroup, ": flows of others are left alone"));
  }
  return absl::OkStatus();
}

// What becomes of the packets behind the first ones where the rule says so.
void NoteForwarding(const TrialFlow& flow, Explanation& explanation) {
  if (flow.owner || !explanation.rule || explanation.rule->forward == TPX_FORWARD_STACK) return;
  const bool is_auto = explanation.rule->forward == TPX_FORWARD_AUTO;
  if (is_auto && explanation.alive == 0) return;  // nobody looks for watchers
  const std::string says =
      StrCat("rule ", Quote(explanation.rule->name), " says forward: ", is_auto ? "auto: " : "fib: ");
  if (explanation.rule->action == TPX_ACTION_BYPASS) {
    explanation.notes.push_back(
        StrCat(says, "behind its first packet the flow goes past netfilter (forwarded)"));
  } else if (flow.proto == IPPROTO_UDP && is_auto && explanation.watchers != 0) {
    explanation.notes.push_back(
        StrCat(says, "its session stays with the worker, what goes past the stack would be missed by: ",
               absl::StrJoin(WatcherNames(explanation.watchers), ", ")));
  } else if (flow.proto == IPPROTO_UDP) {
    const bool is_preserved = explanation.steered && explanation.steered->source == TPX_SOURCE_PRESERVE &&
                              explanation.rule->action != TPX_ACTION_REDIRECT;
    explanation.notes.push_back(StrCat(says,
                                       is_auto && !is_preserved
                                           ? "its answers go past netfilter, and both directions "
                                           : "both directions go past netfilter ",
                                       "once its session has seen some datagrams each way (translated)"));
  }
}

// What other packets, or another program, may have to say.
void NoteCircumstances(const TrialFlow& flow, Explanation& explanation) {
  NoteForwarding(flow, explanation);
  if (explanation.rule && explanation.rule->limit.per_second != 0)
    explanation.notes.push_back(
        StrCat("rule ", Quote(explanation.rule->name), " takes ", explanation.rule->limit.per_second,
               " new flows a second from one source: more are dropped (rate_limited)"));
  const uint32_t port = explanation.listen_port;
  if (explanation.reason == TPX_R_OWN_ADDRESS && port != 0 && flow.dst.port == port)
    explanation.notes.push_back(
        StrCat("port ", port, " is the proxy's own: sk_lookup refuses it (lk_listener_dialled)"));
}

absl::Status Run(const Trial& trial, const TrialFlow& flow, int ifindex, const RuleCounters& counters,
                 const policy::Config& config, Explanation& explanation) {
  if (flow.owner) return RunLocal(trial, flow, counters, config, explanation);
  const std::vector<std::byte> frame = BuildTrialFrame(flow);
  TPX_RETURN_IF_ERROR(
      bpf::RunTrial(trial.object.lan_fd(), {.frame = frame, .ifindex = ifindex, .mark = flow.mark}));
  TPX_ASSIGN_OR_RETURN(explanation.reason, ReadReason(trial.pins()));
  TPX_ASSIGN_OR_RETURN(explanation.rule, ReadRule(trial.pins(), counters, config.policy));
  if (explanation.reason == TPX_R_RULE_PROXY) {
    TPX_ASSIGN_OR_RETURN(explanation.steered, ReadVerdict(trial.pins(), KeyOf(flow)));
  }
  NoteCircumstances(flow, explanation);
  return absl::OkStatus();
}

// The live one, but for the generation; a load begins with zeroes.
absl::Status CopyControl(const Paths& paths, bool loaded, const std::string& pins) {
  TPX_ASSIGN_OR_RETURN(auto control, bpf::OpenControl(pins, Access::kReadWrite));
  if (loaded) {
    TPX_ASSIGN_OR_RETURN(auto live, bpf::OpenControl(paths.pins, Access::kReadWrite));
    control[0].n_workers = Load(live[0].n_workers);
    control[0].listen_port = Load(live[0].listen_port);
    control[0].udp_flow_s = Load(live[0].udp_flow_s);
    control[0].watchers = Load(live[0].watchers);
  }
  control[0].abi_version = TPX_ABI_VERSION;
  control[0].generation = kCandidateGeneration;
  return absl::OkStatus();
}

// Which worker has the client already.
absl::Status CopyAffinity(const std::string& live_pins, const TrialFlow& flow, const std::string& pins) {
  const tpx_flow key = KeyOf(flow);
  const uint64_t index = tpx_hash_of_end(&key.src, key.sport) % TPX_AFFINITIES;
  TPX_ASSIGN_OR_RETURN(auto live, bpf::OpenAffinities(live_pins, Access::kReadWrite));
  TPX_ASSIGN_OR_RETURN(auto affinities, bpf::OpenAffinities(pins, Access::kReadWrite));
  affinities[index].word = Load(live[index].word);
  return absl::OkStatus();
}

void NoteCandidate(const std::optional<State>& state, const policy::Config& candidate,
                   Explanation& explanation) {
  if (!state) {
    explanation.notes.emplace_back("nothing is loaded: no worker is there");
    return;
  }
  NoteOtherBuild(*state, explanation);
  if (!(state->steering == candidate.steering))
    explanation.notes.emplace_back(
        "the steering section differs from the loaded one: a reload would refuse this file");
}

}  // namespace

absl::StatusOr<Explanation> Explain(const Paths& paths, const TrialFlow& flow) {
  TPX_ASSIGN_OR_RETURN(const std::optional<State> state, ReadLoaded(paths));
  if (!state)
    return absl::FailedPreconditionError(
        "nothing is loaded; run 'tpx-bpf load' or ask for a file with --config");
  Explanation explanation;
  NoteOtherBuild(*state, explanation);
  int ifindex = 0;
  if (!flow.owner) {
    TPX_ASSIGN_OR_RETURN(ifindex, ChooseDevice(state->devices, flow, explanation));
  }
  TPX_RETURN_IF_ERROR(CountWorkers(paths.pins, explanation));
  TPX_ASSIGN_OR_RETURN(const StoredConfig stored, LoadedConfig(paths));
  TPX_ASSIGN_OR_RETURN(explanation.generation, LiveGeneration(paths.pins));
  TPX_ASSIGN_OR_RETURN(const Trial trial, MakeTrial(paths.pins, kLivenessAndPolicy, state->steering));
  RuleCounters counters;  // while a reload runs, of both generations
  for (const auto& [generation, of_one] : state->rule_counters) counters.insert(of_one.begin(), of_one.end());
  TPX_RETURN_IF_ERROR(CopyAffinity(paths.pins, flow, trial.pins()));
  TPX_RETURN_IF_ERROR(Run(trial, flow, ifindex, counters, stored.config, explanation));
  return explanation;
}

absl::StatusOr<Explanation> ExplainCandidate(const Paths& paths, const policy::Config& candidate,
                                             const TrialFlow& flow) {
  TPX_ASSIGN_OR_RETURN(const std::optional<State> state, ReadLoaded(paths));
  TPX_ASSIGN_OR_RETURN(sys::Rtnl rtnl, sys::Rtnl::Open());
  TPX_ASSIGN_OR_RETURN(Plan plan, MakePlan(candidate, rtnl));
  Explanation explanation;
  NoteCandidate(state, candidate, explanation);
  int ifindex = 0;
  if (!flow.owner) {
    TPX_ASSIGN_OR_RETURN(ifindex, ChooseDevice(plan.state.devices, flow, explanation));
  }
  if (state) TPX_RETURN_IF_ERROR(CountWorkers(paths.pins, explanation));
  const std::span<const char* const> shared = state ? std::span(kLiveness) : std::span<const char* const>();
  TPX_ASSIGN_OR_RETURN(const Trial trial,
                       MakeTrial(paths.pins, shared, state ? state->steering : candidate.steering));
  TPX_RETURN_IF_ERROR(SyncLocalAddresses(trial.pins(), rtnl));
  const RuleCounters counters = AssignCounters({}, candidate.policy, *plan.compiled.tables);
  TPX_RETURN_IF_ERROR(FillGeneration(trial.pins(), plan.compiled, kCandidateGeneration).status());
  TPX_RETURN_IF_ERROR(CopyControl(paths, state.has_value(), trial.pins()));
  if (state) TPX_RETURN_IF_ERROR(CopyAffinity(paths.pins, flow, trial.pins()));
  TPX_RETURN_IF_ERROR(Run(trial, flow, ifindex, counters, candidate, explanation));
  return explanation;
}

}  // namespace tpx::control
