// SPDX-License-Identifier: Apache-2.0
#include "kernel_translations.h"

#include <algorithm>
#include <atomic>

#include "tpx/base/status.h"
#include "tpx/bpf/maps.h"

namespace tpx::app {

absl::StatusOr<KernelTranslations> KernelTranslations::Open(const std::string& pins) {
  TPX_ASSIGN_OR_RETURN(auto nat, bpf::OpenNat(pins, bpf::Access::kReadWrite));
  TPX_ASSIGN_OR_RETURN(auto upstreams, bpf::OpenUpstreams(pins, bpf::Access::kReadWrite));
  TPX_ASSIGN_OR_RETURN(auto affinities, bpf::OpenAffinities(pins, bpf::Access::kReadWrite));
  TPX_ASSIGN_OR_RETURN(auto control, bpf::OpenControl(pins, bpf::Access::kReadWrite));
  std::atomic_ref(control[0].translates).store(0, std::memory_order_release);
  TPX_ASSIGN_OR_RETURN(const auto left, nat.Keys());
  for (const tpx_flow& flow : left) {
    if (absl::Status status = nat.Delete(flow); !status.ok() && !absl::IsNotFound(status)) return status;
  }
  std::fill_n(&upstreams[0], upstreams.size(), tpx_upstream{});
  std::fill_n(&affinities[0], affinities.size(), tpx_affinity{});
  return KernelTranslations(std::move(nat), std::move(upstreams), std::move(affinities), std::move(control));
}

bool KernelTranslations::Forwards(tpx_forward forward) {
  if (forward == TPX_FORWARD_AUTO)
    return std::atomic_ref(control_[0].watchers).load(std::memory_order_acquire) == 0;
  return forward == TPX_FORWARD_FIB;
}

bool KernelTranslations::Store(const tpx_flow& arriving, const tpx_translation& translation) {
  if (!nat_.Update(arriving, translation).ok()) return false;
  std::atomic_ref(control_[0].translates).store(1, std::memory_order_release);
  return true;
}

std::optional<tpx_translation> KernelTranslations::Find(const tpx_flow& arriving) {
  const absl::StatusOr<tpx_translation> found = nat_.Lookup(arriving);
  return found.ok() ? std::optional(*found) : std::nullopt;
}

void KernelTranslations::Erase(const tpx_flow& arriving) { (void)nat_.Delete(arriving).ok(); }

}  // namespace tpx::app
