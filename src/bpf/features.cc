// SPDX-License-Identifier: Apache-2.0
#include "tpx/bpf/features.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <unistd.h>

#include <cerrno>

#include "libbpf_log.h"
#include "tpx/bpf/map.h"
#include "uapi.h"

namespace tpx::bpf {
namespace {

constexpr int kLoopbackIndex = 1;
constexpr const char* kKernelBtf = "/sys/kernel/btf/vmlinux";

// Asking what is attached changes nothing, and a kernel without tcx does not
// know the question.
bool HasTcx() {
  uint32_t attach_flags = 0;
  uint32_t count = 0;
  return bpf_prog_query(kLoopbackIndex, kTcxIngress, 0, &attach_flags, nullptr, &count) == 0 ||
         errno == ENOENT;
}

}  // namespace

std::vector<std::string> Features::Missing() const {
  std::vector<std::string> missing;
  if (!sk_lookup) missing.emplace_back("BPF programs of type sk_lookup (Linux 5.9)");
  if (!mmapable_arrays) missing.emplace_back("memory-mapped BPF arrays (Linux 5.5)");
  if (!kernel_btf) missing.emplace_back("BTF of the kernel (CONFIG_DEBUG_INFO_BTF)");
  return missing;
}

absl::StatusOr<Features> ProbeFeatures() {
  LibbpfLog log;
  const MapShape shape{BPF_MAP_TYPE_ARRAY, sizeof(uint32_t), sizeof(uint64_t)};
  const absl::StatusOr<UniqueFd> plain = CreateMap({"tpx_probe", shape, 1});
  if (absl::IsPermissionDenied(plain.status())) {
    return absl::PermissionDeniedError("BPF is not permitted; run as root or with CAP_BPF and CAP_NET_ADMIN");
  }
  TPX_RETURN_IF_ERROR(plain.status());
  Features features;
  features.mmapable_arrays = CreateMap({"tpx_probe", shape, 1, BPF_F_MMAPABLE}).ok();
  features.sk_lookup = libbpf_probe_bpf_prog_type(BPF_PROG_TYPE_SK_LOOKUP, nullptr) == 1;
  features.kernel_btf = access(kKernelBtf, R_OK) == 0;
  features.tcx = HasTcx();
  return features;
}

}  // namespace tpx::bpf
