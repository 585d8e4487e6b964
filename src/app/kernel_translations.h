// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "tpx/bpf/map.h"
#include "tpx/bpf/shared_array.h"
#include "tpx/data/translation_map.h"
#include "tpx_abi.h"
#include "tpx_affinity.h"
#include "tpx_nat.h"

namespace tpx::app {

// What tc knows of the workers' UDP sessions: tpx_nat, tpx_upstreams and tpx_affinities.
class KernelTranslations final : public data::TranslationMap {
 public:
  // Empties them: what a killed process left speaks of sockets that are gone. Before
  // any worker of this one renews a lease.
  static absl::StatusOr<KernelTranslations> Open(const std::string& pins);
  std::span<tpx_upstream> upstreams() const { return {&upstreams_[0], upstreams_.size()}; }
  std::span<tpx_affinity> affinities() const { return {&affinities_[0], affinities_.size()}; }
  bool Forwards(tpx_forward forward) override;
  bool Store(const tpx_flow& arriving, const tpx_translation& translation) override;
  std::optional<tpx_translation> Find(const tpx_flow& arriving) override;
  void Erase(const tpx_flow& arriving) override;

 private:
  KernelTranslations(bpf::Map<tpx_flow, tpx_translation> nat, bpf::SharedArray<tpx_upstream> upstreams,
                     bpf::SharedArray<tpx_affinity> affinities, bpf::SharedArray<tpx_control> control)
      : nat_(std::move(nat)),
        upstreams_(std::move(upstreams)),
        affinities_(std::move(affinities)),
        control_(std::move(control)) {}
  bpf::Map<tpx_flow, tpx_translation> nat_;
  bpf::SharedArray<tpx_upstream> upstreams_;
  bpf::SharedArray<tpx_affinity> affinities_;
  bpf::SharedArray<tpx_control> control_;
};

}  // namespace tpx::app
