// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "state.h"
#include "tpx/base/unique_fd.h"
#include "tpx/bpf/object.h"
#include "tpx/bpf/shared_array.h"
#include "tpx/policy/compile.h"
#include "tpx/policy/config.h"
#include "tpx_judge.h"

namespace tpx::control {

// Asks one policy about many flows, with the code that the programs judge new
// flows with. It has what it needs of the policy for as long as it lives,
// whatever is loaded by then, and changes nothing that is loaded.
class Judge {
 public:
  // By the policy that is live now. kAborted: another was published meanwhile.
  static absl::StatusOr<Judge> OfLive(const Paths& paths, const State& state);
  // By one that is not loaded; `compiled` gets its counters.
  static absl::StatusOr<Judge> OfCandidate(policy::CompiledPolicy& compiled, const policy::Policy& policy);

  // At most TPX_QUESTIONS; fills in the answers.
  absl::Status Ask(std::span<tpx_question> questions);

  // That gave a verdict of this policy.
  const std::string& RuleOf(const tpx_verdict& verdict) const;
  uint32_t generation() const { return generation_; }

 private:
  Judge(UniqueFd directory, bpf::Object object, bpf::SharedArray<tpx_question> questions)
      : directory_(std::move(directory)), object_(std::move(object)), questions_(std::move(questions)) {}
  static absl::StatusOr<Judge> Create();
  std::string pins() const;
  absl::Status SetGeneration(uint32_t generation);

  UniqueFd directory_;
  bpf::Object object_;
  bpf::SharedArray<tpx_question> questions_;
  std::map<uint32_t, std::string> rules_;  // by counter
  uint32_t generation_ = 0;
};

}  // namespace tpx::control
