// SPDX-License-Identifier: Apache-2.0
#include "judge.h"

#include <algorithm>

#include "publish.h"
#include "tpx/base/status.h"
#include "tpx/bpf/maps.h"
#include "tpx/bpf/trial.h"
#include "tpx/sys/mount.h"

namespace tpx::control {
namespace {

using bpf::Access;
using OuterMap = bpf::Map<uint32_t, uint32_t>;

constexpr uint32_t kCandidateGeneration = 1;

// An inner map lives as long as any outer one has it.
absl::Status Share(const OuterMap& from, const OuterMap& to, uint32_t index) {
  TPX_ASSIGN_OR_RETURN(const uint32_t id, from.Lookup(index));
  TPX_ASSIGN_OR_RETURN(const UniqueFd inner, bpf::OpenMapById(id, from.name()));
  return to.Update(index, static_cast<uint32_t>(inner.get()));
}

absl::Status ShareGeneration(const std::string& from, const std::string& to, uint32_t generation) {
  const uint32_t slot = generation % TPX_SLOTS;
  TPX_ASSIGN_OR_RETURN(const OuterMap live_tables, bpf::OpenTables(from, Access::kReadOnly));
  TPX_ASSIGN_OR_RETURN(const OuterMap tables, bpf::OpenTables(to, Access::kReadWrite));
  TPX_RETURN_IF_ERROR(Share(live_tables, tables, slot));
  TPX_ASSIGN_OR_RETURN(const OuterMap live_prefixes, bpf::OpenPrefixes(from, Access::kReadOnly));
  TPX_ASSIGN_OR_RETURN(const OuterMap prefixes, bpf::OpenPrefixes(to, Access::kReadWrite));
  for (const uint32_t dimension : {TPX_DIM_SRC, TPX_DIM_DST})
    TPX_RETURN_IF_ERROR(Share(live_prefixes, prefixes, slot * 2 + dimension));
  TPX_ASSIGN_OR_RETURN(const OuterMap live_attributes, bpf::OpenAttributes(from, Access::kReadOnly));
  TPX_ASSIGN_OR_RETURN(const OuterMap attributes, bpf::OpenAttributes(to, Access::kReadWrite));
  return Share(live_attributes, attributes, slot);
}

std::map<uint32_t, std::string> ByCounter(const RuleCounters& counters) {
  std::map<uint32_t, std::string> rules;
  for (const auto& [name, counter] : counters) rules.emplace(counter, name);
  return rules;
}

}  // namespace

std::string Judge::pins() const { return sys::PathOf(directory_); }

absl::StatusOr<Judge> Judge::Create() {
  TPX_ASSIGN_OR_RETURN(bpf::Object object, bpf::Object::LoadJudge());
  TPX_ASSIGN_OR_RETURN(UniqueFd directory, sys::OpenDetachedBpffs());
  const std::string pins = sys::PathOf(directory);
  TPX_RETURN_IF_ERROR(object.PinMaps(pins));
  TPX_ASSIGN_OR_RETURN(auto questions, bpf::OpenQuestions(pins, Access::kReadWrite));
  return Judge(std::move(directory), std::move(object), std::move(questions));
}

absl::Status Judge::SetGeneration(uint32_t generation) {
  TPX_ASSIGN_OR_RETURN(auto control, bpf::OpenControl(pins(), Access::kReadWrite));
  control[0].abi_version = TPX_ABI_VERSION;
  control[0].generation = generation_ = generation;
  return absl::OkStatus();
}

absl::StatusOr<Judge> Judge::OfLive(const Paths& paths, const State& state) {
  TPX_ASSIGN_OR_RETURN(Judge judge, Create());
  TPX_ASSIGN_OR_RETURN(const uint32_t generation, LiveGeneration(paths.pins));
  const absl::Status shared = ShareGeneration(paths.pins, judge.pins(), generation);
  TPX_ASSIGN_OR_RETURN(const uint32_t after, LiveGeneration(paths.pins));
  const auto counters = state.rule_counters.find(generation);
  if (after != generation || counters == state.rule_counters.end())
    return absl::AbortedError("another policy was published at this moment; try again");
  TPX_RETURN_IF_ERROR(shared);
  judge.rules_ = ByCounter(counters->second);
  TPX_RETURN_IF_ERROR(judge.SetGeneration(generation));
  return judge;
}

absl::StatusOr<Judge> Judge::OfCandidate(policy::CompiledPolicy& compiled, const policy::Policy& policy) {
  TPX_ASSIGN_OR_RETURN(Judge judge, Create());
  judge.rules_ = ByCounter(AssignCounters({}, policy, *compiled.tables));
  TPX_RETURN_IF_ERROR(FillGeneration(judge.pins(), compiled, kCandidateGeneration).status());
  TPX_RETURN_IF_ERROR(judge.SetGeneration(kCandidateGeneration));
  return judge;
}

absl::Status Judge::Ask(std::span<tpx_question> questions) {
  if (questions.size() > TPX_QUESTIONS) return absl::InvalidArgumentError("too many questions at once");
  for (size_t i = 0; i < questions.size(); ++i) {
    questions[i].asked = 1;
    questions_[i] = questions[i];
  }
  if (questions.size() < TPX_QUESTIONS) questions_[questions.size()].asked = 0;
  TPX_RETURN_IF_ERROR(bpf::RunJudge(object_.judge_fd()));
  for (size_t i = 0; i < questions.size(); ++i) questions[i] = questions_[i];
  return absl::OkStatus();
}

const std::string& Judge::RuleOf(const tpx_verdict& verdict) const {
  static const std::string kNone;
  const auto found = rules_.find(verdict.counter);
  return found == rules_.end() ? kNone : found->second;
}

}  // namespace tpx::control
