// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <netinet/in.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tpx/base/address.h"
#include "tpx/control/lifecycle.h"
#include "tpx/policy/config.h"
#include "tpx_abi.h"

// What the programs would do with the first packet of a flow: they are run on
// such a packet, with counters, flows and limits of their own, so nothing that is
// loaded changes.
namespace tpx::control {

// Of a flow that begins on the gateway itself.
struct TrialOwner {
  uint32_t uid = 0, gid = 0;
  std::string cgroup = "/";  // below the root of cgroup v2
  std::string exe;           // absolute path of its program; empty: one that no rule names
};

// The first packet: a SYN, a datagram, an echo request or some bytes of another protocol, of the addresses'
// family.
struct TrialFlow {
  uint8_t proto = 0;   // IPPROTO_ICMP for both families
  Endpoint src, dst;   // of one family; with ports where the protocol has them
  std::string device;  // that it comes in by; empty: the first LAN device
  uint32_t mark = 0;
  uint8_t dscp = 0;                   // 0 to 63
  policy::MacAddress mac{};           // of the sender
  std::optional<TrialOwner> owner{};  // a process of the gateway begins it, and nothing of the link matters

  bool has_ports() const { return proto == IPPROTO_TCP || proto == IPPROTO_UDP; }
};

struct ExplainedRule {
  std::string name;
  tpx_action action = TPX_ACTION_BYPASS;
  int line = 0;  // in the file; 0 for the implicit ones
  policy::RateLimit limit;
  tpx_forward forward = TPX_FORWARD_STACK;
};

struct Explanation {
  tpx_reason reason = TPX_R_MALFORMED;
  std::optional<ExplainedRule> rule;   // that decided; unless something before the rules did
  std::optional<tpx_verdict> steered;  // worker, source and target, where a worker gets the flow
  uint32_t generation = 0;             // of the policy; 0 where a candidate was asked
  std::string device;                  // that it came in by
  uint32_t workers = 0;                // of the proxy that ran last
  uint32_t listen_port = 0;            // same
  uint32_t watchers = 0;               // bits of tpx_watcher, as that proxy has found them last
  uint32_t alive = 0, serving = 0;     // of those; who serves takes new flows
  std::vector<std::string> notes;      // what else to tell the user, in words
};

// By the policy that is loaded: kFailedPrecondition where none is, or where this
// build or this network namespace is not the one to ask.
absl::StatusOr<Explanation> Explain(const Paths& paths, const TrialFlow& flow);

// By the policy of a candidate, as a reload would publish it (or a load, where
// nothing is loaded), and by the workers that are there now.
absl::StatusOr<Explanation> ExplainCandidate(const Paths& paths, const policy::Config& candidate,
                                             const TrialFlow& flow);

}  // namespace tpx::control
