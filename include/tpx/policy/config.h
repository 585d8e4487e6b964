// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "tpx/base/address.h"
#include "tpx/base/mac.h"
#include "tpx_abi.h"

namespace tpx::policy {

// Inclusive range of ports, host byte order.
struct PortRange {
  uint16_t first = 0;
  uint16_t last = 65535;
  friend bool operator==(const PortRange&, const PortRange&) = default;
};

// Fits marks of which the bits in `mask` are those of `value`.
struct MarkMatch {
  uint32_t value = 0, mask = 0xffffffff;
  friend bool operator==(const MarkMatch&, const MarkMatch&) = default;
};

using ::tpx::MacAddress;

// Inclusive range of ids of users or groups.
struct IdRange {
  uint32_t first = 0, last = 0;
  friend bool operator==(const IdRange&, const IdRange&) = default;
};

// A cgroup of version 2 and all below it.
struct CgroupMatch {
  std::string path{};  // below the root, which is "/"
  uint64_t id = 0;     // 0: there was none when the rules were read
  friend bool operator==(const CgroupMatch&, const CgroupMatch&) = default;
};

// A file, as tpx_owner has it.
struct FileId {
  uint64_t inode = 0;
  uint32_t device = 0;
  friend bool operator==(const FileId&, const FileId&) = default;
};

// The program that a process runs.
struct ProgramMatch {
  std::string path{};
  FileId file{};  // inode 0: there was none when the rules were read
  friend bool operator==(const ProgramMatch&, const ProgramMatch&) = default;
};

// The keys of a match, as bits of Rule::negated.
enum MatchKey : uint32_t {
  kMatchSrc = 1 << 0,
  kMatchDst = 1 << 1,
  kMatchSport = 1 << 2,
  kMatchDport = 1 << 3,
  kMatchProto = 1 << 4,
  kMatchInterface = 1 << 5,
  kMatchMac = 1 << 6,
  kMatchDscp = 1 << 7,
  kMatchMark = 1 << 8,
  kMatchVlan = 1 << 9,
  kMatchUid = 1 << 10,
  kMatchGid = 1 << 11,
  kMatchCgroup = 1 << 12,
  kMatchExe = 1 << 13,
};

// New flows that one source may begin: an address of IPv4, a /64 of IPv6.
struct RateLimit {
  uint32_t per_second = 0;  // 0: no limit
  uint32_t burst = 0;       // at once
  uint32_t penalty_s = 0;   // a source that was too fast gets nothing for so long
  friend bool operator==(const RateLimit&, const RateLimit&) = default;
};

// One rule, names of sets already replaced by their prefixes. An empty list in
// a match accepts everything.
struct Rule {
  std::string name{};
  std::vector<uint8_t> protocols{};
  std::vector<Prefix> src{}, dst{};
  std::vector<PortRange> sports{}, dports{};
  // The link that the packet came by.
  std::vector<std::string> interfaces{};  // names or fnmatch(3) patterns
  std::vector<MacAddress> macs{};         // of the sender
  std::vector<uint8_t> dscps{};           // 0 to 63
  std::vector<MarkMatch> marks{};
  std::vector<uint16_t> vlans{};  // of the device; 1 to 4094
  // The process on the gateway that the flow belongs to.
  std::vector<IdRange> uids{}, gids{};
  std::vector<CgroupMatch> cgroups{};
  std::vector<ProgramMatch> programs{};
  uint32_t negated = 0;  // MatchKey bits: what is listed is what is not accepted
  tpx_action action = TPX_ACTION_BYPASS;
  tpx_fail_mode fail_mode = TPX_FAIL_OPEN;
  tpx_source_mode source = TPX_SOURCE_MASQUERADE;
  tpx_mapping mapping = TPX_MAPPING_ENDPOINT_INDEPENDENT;  // of the UDP that the rule accepts
  Endpoint target{};                                       // of a redirect
  RateLimit limit{};                                       // beyond it flows are dropped
  tpx_log_mode log = TPX_LOG_NONE;                         // whether the proxy's log tells of its flows
  tpx_forward forward = TPX_FORWARD_STACK;                 // of a bypass, or of UDP that is proxied
  bool matches_nothing = false;                            // src or dst names only empty sets
  int line = 0, column = 0;  // in the file, for messages; 0 for the implicit ones

  // What it accepts goes to a worker; only TCP and UDP can.
  bool is_proxied() const { return action == TPX_ACTION_PROXY || action == TPX_ACTION_REDIRECT; }
  bool negates(MatchKey key) const { return (negated & key) != 0; }
  bool asks_for_link() const {
    return !(interfaces.empty() && macs.empty() && dscps.empty() && marks.empty() && vlans.empty());
  }
  // Such a rule never matches a packet, as one that asks for the link never matches a local flow.
  bool asks_for_owner() const {
    return !(uids.empty() && gids.empty() && cgroups.empty() && programs.empty());
  }
  friend bool operator==(const Rule&, const Rule&) = default;
};

// Ordered rules, the first match wins; the last one matches everything and does
// not proxy. The file's rules are followed by the implicit ones: "default", and
// where the default is to proxy, which concerns TCP and UDP, "default" {tcp, udp}
// and after it "default-other" (bypass, empty match).
struct Policy {
  std::vector<Rule> rules;
  friend bool operator==(const Policy&, const Policy&) = default;
};

// Rules a file may have: what the tables hold less the implicit ones.
inline constexpr size_t kMaxFileRules = TPX_MAX_RULES - 2;

struct Interfaces {
  std::vector<std::string> lan, wan;  // names or fnmatch(3) patterns
  friend bool operator==(const Interfaces&, const Interfaces&) = default;
};

enum class AttachMode { kAuto, kTcx, kClsact };

// Where XDP drops early on the LAN devices: on network cards that do it in their drivers, wherever the driver
// can or else in the stack, in the stack, nowhere.
enum class XdpMode { kAuto, kNative, kGeneric, kOff };

// How the kernel side is put up. Changing it needs detach and load.
struct Steering {
  uint32_t mark_mask = 0x60000000;   // the only bits of a packet's mark that are ever touched
  uint32_t steer_mark = 0x20000000;  // deliver locally
  uint32_t own_mark = 0x40000000;    // the proxy's own connections
  uint32_t route_table = 2184;
  uint32_t rule_priority = 100;
  AttachMode attach = AttachMode::kAuto;

  // On the gateway's own sockets whose flows are proxied: the bits of both.
  uint32_t local_mark() const { return steer_mark | own_mark; }
  friend bool operator==(const Steering&, const Steering&) = default;
};

struct Timeouts {
  uint32_t connect_ms = 10'000;
  uint32_t idle_ms = 3'600'000;
  uint32_t half_closed_ms = 600'000;
  uint32_t drain_ms = 30'000;
  uint32_t lease_ms = 1'000;
  uint32_t keepalive_idle_s = 300;
  uint32_t keepalive_interval_s = 30;
  uint32_t keepalive_count = 4;
  // UDP sessions end after so long without a datagram,
  uint32_t udp_one_way_ms = 30'000;   // where nothing has come back yet
  uint32_t udp_answered_ms = 10'000;  // where DNS queries have had their answers
  uint32_t udp_stream_ms = 180'000;   // else
  friend bool operator==(const Timeouts&, const Timeouts&) = default;
};

struct Proxy {
  uint32_t workers = 0;           // 0: one per CPU the process may run on
  uint32_t max_sessions = 0;      // of all workers together; 0: as many as the descriptor limit allows
  uint32_t pipes = 64;            // per worker, at most
  uint32_t max_udp_sessions = 0;  // as max_sessions
  uint32_t max_udp_sessions_per_client = 0;  // of one address, per worker; 0: a quarter of the worker's
  uint32_t udp_reply_sockets = 512;          // per worker, at most
  Timeouts timeouts;
  friend bool operator==(const Proxy&, const Proxy&) = default;
};

// Flows that begin on the gateway itself, in a cgroup or below it.
struct Local {
  bool enabled = false;
  std::string cgroup = "/";  // below the root of cgroup v2
  friend bool operator==(const Local&, const Local&) = default;
};

// A set that the configuration keeps in a file of its own.
struct SetFile {
  std::string name, path;  // as the configuration names them
  size_t prefixes = 0;     // that were read, less duplicates and what others contain
  friend bool operator==(const SetFile&, const SetFile&) = default;
};

struct Config {
  std::string file{};  // absolute path of what was read; empty where it was no file
  std::vector<SetFile> set_files{};
  Interfaces interfaces;
  Local local;
  Policy policy;
  XdpMode xdp = XdpMode::kAuto;
  Steering steering;
  Proxy proxy;
  friend bool operator==(const Config&, const Config&) = default;
};

}  // namespace tpx::policy
