// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tpx/policy/config.h"

// Putting the kernel side up, changing it and taking it away.
//
// Invariants
//  1. A load is all or nothing: what a failed or killed one left is removed by
//     the same code as by a detach, at the latest by the next load or detach.
//  2. Every change outside the pin directory is in the journal before it is
//     made, so that it can be undone without knowing how far a load came.
//  3. Everything is attached before the pin directory gets its final name;
//     where that exists, the load is complete.
//  4. All changes happen under one lock in the state directory.
namespace tpx::control {

// An instance; its name changes both paths.
struct Paths {
  std::string pins = "/sys/fs/bpf/tpx-bpf";
  std::string state = "/run/tpx-bpf";
};

// How long a command waits for another one that is changing the instance.
inline constexpr std::chrono::milliseconds kLockTimeout{10'000};

enum class Role { kLan, kWan };
std::string_view RoleName(Role role);  // "lan", "wan"
enum class Mode { kTcx, kClsact };
std::string_view ModeName(Mode mode);  // "tcx", "clsact"

// A device that a program is attached to.
struct Device {
  std::string name;
  int ifindex = 0;
  Role role = Role::kLan;
  Mode mode = Mode::kTcx;
  uint32_t priority = 0;  // of the filter, where mode is kClsact
  friend bool operator==(const Device&, const Device&) = default;
};

// Whether and where XDP drops early on a LAN device.
enum class XdpPlace { kNone, kNative, kGeneric };
std::string_view XdpPlaceName(XdpPlace place);  // "none", "native", "generic"
struct EarlyDrop {
  std::string device;
  int ifindex = 0;
  XdpPlace place = XdpPlace::kNone;
  std::string why{};  // there and not in a better place
  policy::XdpMode asked = policy::XdpMode::kAuto;
  bool failed = false;      // to attach, although it should have been possible
  bool dispatched = false;  // in libxdp's dispatcher, or not even there
  friend bool operator==(const EarlyDrop&, const EarlyDrop&) = default;
};

// `lines` is what to tell the user, in order.
struct LoadReport {
  bool already_loaded = false;
  std::vector<std::string> lines;
  std::vector<Device> devices;
  std::vector<std::string> rules, routes;
  uint32_t generation = 0;
};
struct DetachReport {
  bool was_loaded = false;  // or left half loaded
  std::vector<std::string> lines;
};
struct ReloadReport {
  std::vector<std::string> lines;
  std::vector<Device> devices;
  uint32_t generation = 0;
};

struct UpgradeReport {
  std::vector<std::string> lines;
};

// Called before each change, named in words; an error stops the work there.
using Checkpoint = std::function<absl::Status(std::string_view step)>;

// Attaches and pins everything and publishes the policy. Changes nothing and
// says so when this instance is loaded. `config_text` is kept for `status`.
absl::StatusOr<LoadReport> Load(const Paths& paths, const policy::Config& config,
                                std::string_view config_text, const Checkpoint& checkpoint = nullptr);

// What Load would do, after all its checks.
absl::StatusOr<LoadReport> PlanLoad(const Paths& paths, const policy::Config& config);

// Removes everything, needs no daemon and no configuration. Idempotent.
absl::StatusOr<DetachReport> Detach(const Paths& paths, const Checkpoint& checkpoint = nullptr);

// Publishes a new generation of the policy, follows changed interfaces and puts
// back what somebody else removed. On error the old generation runs on. A
// changed `steering` section is kFailedPrecondition, as is nothing being loaded.
absl::StatusOr<ReloadReport> Reload(const Paths& paths, const policy::Config& config,
                                    std::string_view config_text, const Checkpoint& checkpoint = nullptr);

// Puts this build's programs in the place of the attached ones, on the same
// maps: policy, flows and counters stay, no packet goes without a program. A
// kernel contract other than this build's is kFailedPrecondition. What fails is
// put back; what is killed leaves old and new programs, which agree on the maps,
// until the next call.
absl::StatusOr<UpgradeReport> Upgrade(const Paths& paths, const Checkpoint& checkpoint = nullptr);

struct StoredConfig {
  policy::Config config;
  std::string text;
};
// The configuration that is loaded, sets included; kNotFound when none is.
absl::StatusOr<StoredConfig> LoadedConfig(const Paths& paths);

// As Reload, with what `change` makes of the loaded configuration. Nothing else
// is loaded between the two.
using ConfigChange = std::function<absl::StatusOr<policy::Config>(const StoredConfig& loaded)>;
absl::StatusOr<ReloadReport> ReloadChanged(const Paths& paths, const ConfigChange& change,
                                           const Checkpoint& checkpoint = nullptr);

}  // namespace tpx::control
