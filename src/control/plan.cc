// SPDX-License-Identifier: Apache-2.0
#include "plan.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_join.h"
#include "devices.h"
#include "local_output.h"
#include "tpx/base/status.h"
#include "tpx/base/strings.h"
#include "tpx/bpf/features.h"
#include "tpx/bpf/object.h"
#include "tpx/sys/file.h"
#include "tpx/sys/netns.h"
#include "tpx_abi.h"
#include "xdp.h"

namespace tpx::control {
namespace {

bool SysctlIsSet(const std::string& path) {
  const absl::StatusOr<std::string> text = sys::ReadFile(path);
  return text.ok() && absl::StripAsciiWhitespace(*text) != "0";
}

// The local route of a family needs it enabled on the loopback device. The
// file is missing where the kernel has no IPv6 at all.
bool Ipv6Enabled() {
  const absl::StatusOr<std::string> text = sys::ReadFile("/proc/sys/net/ipv6/conf/lo/disable_ipv6");
  return text.ok() && absl::StripAsciiWhitespace(*text) == "0";
}

absl::StatusOr<Mode> ChooseMode(policy::AttachMode wanted, const bpf::Features& features) {
  if (wanted == policy::AttachMode::kClsact) return Mode::kClsact;
  if (features.tcx) return Mode::kTcx;
  if (wanted == policy::AttachMode::kAuto) return Mode::kClsact;
  return absl::FailedPreconditionError(
      "this kernel has no tcx (Linux 6.6); set steering.attach to auto or clsact");
}

// A LAN device with route_localnet lets its hosts reach services on 127.0.0.0/8.
void WarnOfRouteLocalnet(const std::vector<Device>& devices, std::vector<std::string>& notes) {
  const std::string base = "/proc/sys/net/ipv4/conf/";
  const bool all = SysctlIsSet(base + "all/route_localnet");
  for (const Device& device : devices) {
    if (device.role == Role::kLan && (all || SysctlIsSet(StrCat(base, device.name, "/route_localnet")))) {
      notes.push_back(StrCat("warning: route_localnet is on for ", device.name,
                             ": hosts there may reach services on the gateway's loopback addresses"));
    }
  }
}

absl::StatusOr<bpf::Features> CheckFeatures() {
  TPX_ASSIGN_OR_RETURN(bpf::Features features, bpf::ProbeFeatures());
  const std::vector<std::string> missing = features.Missing();
  if (missing.empty()) return features;
  return absl::UnimplementedError(StrCat("this kernel lacks ", absl::StrJoin(missing, " and ")));
}

}  // namespace

absl::StatusOr<Plan> MakePlan(const policy::Config& config, sys::Rtnl& rtnl) {
  Plan plan;
  TPX_ASSIGN_OR_RETURN(plan.compiled, policy::Compile(config.policy));
  TPX_ASSIGN_OR_RETURN(const bpf::Features features, CheckFeatures());
  TPX_ASSIGN_OR_RETURN(const std::vector<sys::LinkInfo> links, rtnl.ListLinks());
  const bool loopback_up = std::any_of(links.begin(), links.end(), [](const sys::LinkInfo& link) {
    return link.is_loopback() && link.is_up();
  });
  if (!loopback_up)
    return absl::FailedPreconditionError("the loopback device is down; run 'ip link set lo up'");

  State& state = plan.state;
  state.abi_version = TPX_ABI_VERSION;
  state.steering = config.steering;
  state.interfaces = config.interfaces;
  state.build = bpf::BuildId();
  state.xdp = config.xdp;
  state.xdp_idle = WhyXdpIsIdle(config);
  TPX_ASSIGN_OR_RETURN(state.netns, sys::CurrentNetns());
  TPX_ASSIGN_OR_RETURN(state.local, PlanLocal(config, plan.notes));
  TPX_ASSIGN_OR_RETURN(state.mode, ChooseMode(config.steering.attach, features));
  Resolution resolution = ResolveDevices(config.interfaces, links);
  TPX_RETURN_IF_ERROR(CheckResolution(resolution, links));
  state.devices = std::move(resolution.devices);
  for (Device& device : state.devices) device.mode = state.mode;
  for (const std::string& pattern : resolution.unmatched) {
    plan.notes.push_back(StrCat("warning: no interface matches ", Quote(pattern), " yet"));
  }
  const std::vector<policy::AttributeEntry> entries =
      policy::DeviceEntries(config.policy, NamesOf(state.devices, links));
  plan.compiled.attributes.insert(plan.compiled.attributes.end(), entries.begin(), entries.end());
  state.families.push_back(sys::Family::kIpv4);
  if (Ipv6Enabled()) {
    state.families.push_back(sys::Family::kIpv6);
  } else {
    plan.notes.emplace_back("IPv6 is disabled in this network namespace: only IPv4 is proxied");
  }
  WarnOfRouteLocalnet(state.devices, plan.notes);
  return plan;
}

}  // namespace tpx::control
