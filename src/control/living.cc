// SPDX-License-Identifier: Apache-2.0
#include "living.h"

#include <net/if.h>
#include <netinet/in.h>

#include <atomic>
#include <cstring>
#include <ctime>
#include <set>
#include <utility>

#include "tpx/base/status.h"
#include "tpx/bpf/maps.h"

namespace tpx::control {
namespace {

using bpf::Access;

constexpr uint32_t kUdpFlowSeconds = 180;  // as the programs have it

tpx_flow FlowOf(const sys::TcpConnection& connection) {
  return {.src = connection.peer.addr.raw,
          .dst = connection.local.addr.raw,
          .sport = htons(connection.peer.port),
          .dport = htons(connection.local.port),
          .proto = IPPROTO_TCP,
          .pad = {}};
}

std::string DeviceName(uint32_t ifindex) {
  char name[IF_NAMESIZE];
  return ifindex != 0 && if_indextoname(ifindex, name) != nullptr ? name : "";
}

bool IsOfRule(const tpx_verdict& verdict) {
  return verdict.reason == TPX_R_RULE_PROXY || verdict.reason == TPX_R_RULE_BYPASS ||
         verdict.reason == TPX_R_DOWN_OPEN || verdict.reason == TPX_R_BUSY_OPEN;
}

// The gateway's own flows are not judged by their packets.
class OwnAddresses {
 public:
  static absl::StatusOr<OwnAddresses> Read(const std::string& pins) {
    TPX_ASSIGN_OR_RETURN(const auto local, bpf::OpenLocal(pins, Access::kReadOnly));
    TPX_ASSIGN_OR_RETURN(const std::vector<tpx_addr> keys, local.Keys());
    OwnAddresses own;
    for (const tpx_addr& key : keys) own.addresses_.insert(IpAddr{key});
    return own;
  }
  bool HasEndOf(const tpx_flow& flow) const {
    return addresses_.contains(IpAddr{flow.src}) || addresses_.contains(IpAddr{flow.dst});
  }

 private:
  std::set<IpAddr> addresses_;
};

// Hands flows on in portions.
class Portions {
 public:
  explicit Portions(const LivingVisitor& visit) : visit_(visit) {}
  absl::Status Add(const LivingFlow& flow) {
    flows_.push_back(flow);
    return flows_.size() < TPX_QUESTIONS ? absl::OkStatus() : Flush();
  }
  absl::Status Flush() {
    if (flows_.empty()) return absl::OkStatus();
    const absl::Status status = visit_(flows_);
    flows_.clear();
    return status;
  }

 private:
  const LivingVisitor& visit_;
  std::vector<LivingFlow> flows_;
};

absl::Status VisitTcp(const std::string& pins, const policy::Steering& steering, const OwnAddresses& own,
                      Portions& portions) {
  TPX_ASSIGN_OR_RETURN(const auto flows, bpf::OpenFlows(pins, Access::kReadOnly));
  TPX_ASSIGN_OR_RETURN(const auto connections, ClientConnections(steering));
  for (const sys::TcpConnection& connection : connections) {
    LivingFlow living{.flow = FlowOf(connection), .known = std::nullopt, .connection = connection};
    if (own.HasEndOf(living.flow)) continue;
    const absl::StatusOr<tpx_verdict> known = flows.Lookup(living.flow);
    if (known.ok() && known->action == TPX_ACTION_REDIRECT) living.known = *known;
    TPX_RETURN_IF_ERROR(portions.Add(living));
  }
  return absl::OkStatus();
}

// What is left to a flow of TCP: the socket shows that it is proxied, and no more.
Treatment NowOf(const LivingFlow& living, const Treatment& before, bool began_before) {
  const uint8_t proto = living.flow.proto;
  if (living.known) {
    Treatment known = TreatmentOf(*living.known, "");
    if (SameTreatment(proto, known, before)) known.rule = before.rule;
    return known;
  }
  if (began_before && before.is_proxied()) return before;
  return {.action = TPX_ACTION_PROXY};
}

Treatment AnswerOf(const tpx_question& question, const Judge& judge) {
  if (question.answered == 0) return {};
  return TreatmentOf(question.verdict, judge.RuleOf(question.verdict));
}

}  // namespace

absl::StatusOr<UdpAge> UdpAge::Read(const std::string& pins) {
  TPX_ASSIGN_OR_RETURN(auto control, bpf::OpenControl(pins, Access::kReadWrite));
  const uint32_t seconds = std::atomic_ref(control[0].udp_flow_s).load(std::memory_order_acquire);
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  UdpAge age;
  age.now_s_ = now.tv_sec;
  age.allowed_s_ = seconds == 0 ? kUdpFlowSeconds : seconds;
  return age;
}

absl::StatusOr<std::vector<LivingFlow>> LivingUdp(const std::string& pins) {
  TPX_ASSIGN_OR_RETURN(const UdpAge age, UdpAge::Read(pins));
  TPX_ASSIGN_OR_RETURN(const auto flows, bpf::OpenFlows(pins, Access::kReadOnly));
  TPX_ASSIGN_OR_RETURN(const std::vector<char> keys,
                       bpf::KeysOfHash(flows.fd(), sizeof(tpx_flow), sizeof(tpx_verdict), flows.name()));
  std::vector<LivingFlow> living;
  for (size_t at = 0; at < keys.size(); at += sizeof(tpx_flow)) {
    tpx_flow flow;
    std::memcpy(&flow, &keys[at], sizeof(flow));
    if (flow.proto != IPPROTO_UDP) continue;
    const absl::StatusOr<tpx_verdict> verdict = flows.Lookup(flow);
    if (absl::IsNotFound(verdict.status())) continue;
    TPX_RETURN_IF_ERROR(verdict.status());
    if (IsOfRule(*verdict) && age.IsAlive(*verdict))
      living.push_back({.flow = flow, .known = *verdict, .connection = {}});
  }
  return living;
}

absl::StatusOr<std::vector<sys::TcpConnection>> ClientConnections(const policy::Steering& steering) {
  TPX_ASSIGN_OR_RETURN(sys::SockDiag diag, sys::SockDiag::Open());
  std::vector<sys::TcpConnection> connections;
  TPX_RETURN_IF_ERROR(diag.VisitConnections([&](const sys::TcpConnection& connection) {
    if (connection.mark == steering.steer_mark) connections.push_back(connection);
  }));
  return connections;
}

absl::Status VisitLiving(const std::string& pins, const policy::Steering& steering,
                         const LivingVisitor& visit) {
  TPX_ASSIGN_OR_RETURN(const OwnAddresses own, OwnAddresses::Read(pins));
  Portions portions(visit);
  TPX_RETURN_IF_ERROR(VisitTcp(pins, steering, own, portions));
  TPX_ASSIGN_OR_RETURN(const std::vector<LivingFlow> udp, LivingUdp(pins));
  for (const LivingFlow& living : udp)
    if (!own.HasEndOf(living.flow)) TPX_RETURN_IF_ERROR(portions.Add(living));
  return portions.Flush();
}

Treatment TreatmentOf(const tpx_verdict& verdict, std::string rule) {
  Treatment treatment{.action = static_cast<tpx_action>(verdict.action),
                      .forward = static_cast<tpx_forward>(verdict.forward),
                      .rule = std::move(rule)};
  if (!treatment.is_proxied()) return treatment;
  treatment.source = static_cast<tpx_source_mode>(verdict.source);
  treatment.mapping = static_cast<tpx_mapping>(verdict.mapping);
  if (treatment.action == TPX_ACTION_REDIRECT) {
    treatment.source = TPX_SOURCE_MASQUERADE;
    treatment.target = {.addr = {verdict.to.addr}, .port = ntohs(verdict.to.port)};
  }
  return treatment;
}

bool SameTreatment(uint8_t proto, const Treatment& now, const Treatment& then) {
  if (now.is_proxied() && then.is_proxied() && !now.source) return true;
  if (now.action != then.action) return false;
  // A connection of TCP has no memory of it.
  if (proto == IPPROTO_UDP && now.forward != then.forward) return false;
  if (now.action == TPX_ACTION_REDIRECT) return now.target == then.target;
  if (now.action != TPX_ACTION_PROXY) return true;
  return now.source == then.source && (proto != IPPROTO_UDP || now.mapping == then.mapping);
}

absl::Status Comparison::Add(std::span<const LivingFlow> flows, const BeganBefore& began_before,
                             const Sink& sink) {
  std::vector<tpx_question> before(flows.size());
  for (size_t i = 0; i < flows.size(); ++i) {
    before[i].flow = flows[i].flow;
    before[i].ifindex = flows[i].known ? flows[i].known->device : 0;
  }
  std::vector<tpx_question> after = before;
  TPX_RETURN_IF_ERROR(before_.Ask(before));
  TPX_RETURN_IF_ERROR(after_.Ask(after));
  for (size_t i = 0; i < flows.size(); ++i) {
    const uint8_t proto = flows[i].flow.proto;
    FlowCount& count = proto == IPPROTO_TCP ? counts_.tcp : counts_.udp;
    ++count.seen;
    ChangedFlow changed{.flow = flows[i].flow,
                        .device = DeviceName(before[i].ifindex),
                        .now = NowOf(flows[i], AnswerOf(before[i], before_), began_before(flows[i])),
                        .then = AnswerOf(after[i], after_)};
    if (SameTreatment(proto, changed.now, changed.then)) continue;
    // How a flow is proxied that is not known is a guess as good as the one about its link.
    changed.uncertain =
        after[i].certain == 0 || (!flows[i].known && changed.then.is_proxied() && before[i].certain == 0);
    ++count.changed;
    count.uncertain += changed.uncertain ? 1 : 0;
    sink(flows[i], changed);
  }
  return absl::OkStatus();
}

}  // namespace tpx::control
