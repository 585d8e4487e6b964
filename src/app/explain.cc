// SPDX-License-Identifier: Apache-2.0
#include "tpx/app/explain.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "owner_lookup.h"
#include "tpx/app/source.h"
#include "tpx/app/view.h"
#include "tpx/base/status.h"
#include "tpx/base/strings.h"

namespace tpx::app {
namespace {

using control::Explanation;
using control::TrialFlow;

bool IsDown(tpx_reason reason) {
  return reason == TPX_R_LO_DOWN_OPEN || reason == TPX_R_LO_DOWN_CLOSED || reason == TPX_R_LO_DOWN_RESET ||
         reason == TPX_R_DOWN_OPEN || reason == TPX_R_DOWN_CLOSED || reason == TPX_R_DOWN_RESET;
}

bool IsBusy(tpx_reason reason) {
  return reason == TPX_R_BUSY_OPEN || reason == TPX_R_BUSY_CLOSED || reason == TPX_R_BUSY_RESET;
}

const char* PacketName(const TrialFlow& flow) {
  if (flow.proto == IPPROTO_TCP) return "a TCP SYN";
  if (flow.proto == IPPROTO_UDP) return "a UDP datagram";
  return flow.proto == IPPROTO_ICMP ? "an ICMP echo request" : "a packet";
}

std::string Describe(const TrialFlow& flow, const Endpoint& end) {
  return flow.has_ports() ? end.ToString() : end.addr.ToString();
}

const char* VerdictOf(const FlowExplained& e) {
  const std::string_view effect = e.reason.effect;
  if (effect == "steer")
    return e.facts.rule && e.facts.rule->action == TPX_ACTION_REDIRECT ? "redirect" : "proxy";
  if (effect == "pass") return "direct";
  return effect == "drop" ? "drop" : "reject";
}

std::string OutcomeOf(const FlowExplained& e, const TrialFlow& flow) {
  const std::string_view verdict = e.verdict;
  if (verdict == "direct") return "left to the kernel";
  if (flow.owner && verdict == "drop") return "the call fails with EPERM";
  if (flow.owner && verdict == "reject") return "the call fails with ECONNREFUSED";
  if (flow.owner && verdict == "redirect") return "sent to the rule's target, without a worker";
  if (verdict == "drop") return "discarded, nobody is told";
  if (verdict == "reject")
    return flow.proto == IPPROTO_TCP ? "answered with a RST" : "answered with an ICMP error";
  if (!e.facts.steered) return "steered to the proxy";
  const tpx_verdict& steered = *e.facts.steered;
  std::string outcome = StrCat("steered to worker ", uint32_t{steered.worker});
  if (steered.action == TPX_ACTION_REDIRECT)
    return StrCat(outcome, ", which connects to ",
                  Endpoint{.addr = {steered.to.addr}, .port = ntohs(steered.to.port)}.ToString());
  return StrCat(outcome, ", the server sees the ",
                steered.source == TPX_SOURCE_PRESERVE ? "client's" : "gateway's", " address");
}

std::string ArrivalStep(const TrialFlow& flow, const Explanation& facts) {
  const bool named = flow.has_ports() || flow.proto == IPPROTO_ICMP;
  std::string step =
      StrCat(PacketName(flow), named ? "" : StrCat(" of protocol ", uint32_t{flow.proto}), " from ",
             Describe(flow, flow.src), " to ", Describe(flow, flow.dst), " comes in by ", facts.device);
  if (flow.mark != 0) step += absl::StrFormat(" with mark 0x%x", flow.mark);
  return step;
}

std::string RuleStep(const FlowExplained& e) {
  const control::ExplainedRule& rule = *e.facts.rule;
  return StrCat(
      e.facts.generation == 0 ? "the candidate's policy" : StrCat("policy generation ", e.facts.generation),
      ": rule ", Quote(rule.name), " says ", e.action);
}

std::string WorkersStep(const FlowExplained& e) {
  const Explanation& facts = e.facts;
  const std::string alive = StrCat(" (", facts.alive, " of ", facts.workers, " alive)");
  if (IsDown(facts.reason)) return StrCat("no worker is there to take it", alive);
  if (IsBusy(facts.reason)) return StrCat("no worker takes new flows", alive);
  return StrCat("a worker takes it", alive);
}

std::string OwnerStep(const TrialFlow& flow) {
  const control::TrialOwner& owner = *flow.owner;
  return StrCat("a process of user ", owner.uid, " and group ", owner.gid, " in cgroup ", owner.cgroup,
                owner.exe.empty() ? "" : StrCat(" running ", owner.exe),
                flow.proto == IPPROTO_TCP ? " connects to " : " sends a datagram to ", flow.dst.ToString());
}

// As StepsOf, of a flow that begins on the gateway itself.
std::vector<std::string> LocalStepsOf(const FlowExplained& e, const TrialFlow& flow) {
  const tpx_reason reason = e.facts.reason;
  const std::string dst = flow.dst.addr.ToString();
  std::vector<std::string> steps = {OwnerStep(flow)};
  auto add = [&steps](std::string step) { steps.push_back(std::move(step)); };
  if (reason == TPX_R_LO_SPECIAL_ADDRESS) return add(StrCat(dst, " is a special address")), steps;
  add(StrCat(dst, " is no special address"));
  if (reason == TPX_R_LO_OWN_ADDRESS) return add(StrCat(dst, " is an address of the gateway")), steps;
  add(StrCat(dst, " is no address of the gateway"));
  if (!e.facts.rule) return add(e.reason.text), steps;
  add(RuleStep(e));
  if (e.facts.rule->action == TPX_ACTION_PROXY) add(WorkersStep(e));
  return steps;
}

// In the order in which the programs decide, up to what ended it.
std::vector<std::string> StepsOf(const FlowExplained& e, const TrialFlow& flow) {
  if (flow.owner) return LocalStepsOf(e, flow);
  const tpx_reason reason = e.facts.reason;
  const std::string src = flow.src.addr.ToString(), dst = flow.dst.addr.ToString();
  const bool portless = !flow.has_ports();
  std::vector<std::string> steps = {ArrivalStep(flow, e.facts)};
  auto add = [&steps](std::string step) { steps.push_back(std::move(step)); };
  if (reason == TPX_R_OWN_MARK) return add("the mark is that of the proxy's own traffic"), steps;
  if (reason == TPX_R_SPECIAL_ADDRESS) return add(StrCat(dst, " is a special address")), steps;
  add(StrCat(dst, " is no special address"));
  if (reason == TPX_R_OWN_ADDRESS) return add(StrCat(dst, " is an address of the gateway")), steps;
  add(StrCat(dst, " is no address of the gateway"));
  if (reason == TPX_R_MARTIAN && !e.facts.rule) return add(StrCat(src, " cannot be the sender")), steps;
  if (!portless) add(StrCat(src, " can be the sender"));
  if (reason == TPX_R_NO_POLICY || reason == TPX_R_OTHER_PROTOCOL) return add(e.reason.text), steps;
  if (!e.facts.rule) return steps;
  add(RuleStep(e));
  if (reason == TPX_R_MARTIAN) return add(StrCat(src, " cannot be the sender, nobody is answered")), steps;
  const tpx_action action = e.facts.rule->action;
  if (action != TPX_ACTION_PROXY && action != TPX_ACTION_REDIRECT) return steps;
  add(portless ? "only TCP and UDP can be proxied" : WorkersStep(e));
  return steps;
}

absl::StatusOr<Explanation> Ask(const control::Paths& paths, const std::string& candidate_file,
                                const TrialFlow& flow) {
  if (candidate_file.empty()) return control::Explain(paths, flow);
  TPX_ASSIGN_OR_RETURN(const Source source,
                       FindSource({.config = candidate_file, .lan = {}, .wan = {}}, paths, false));
  return control::ExplainCandidate(paths, source.config, flow);
}

}  // namespace

absl::StatusOr<control::TrialOwner> FindOwner(const OwnerNames& names) {
  const policy::OwnerLookup lookup = SystemOwners();
  control::TrialOwner owner{
      .uid = 0, .gid = 0, .cgroup = names.cgroup.empty() ? "/" : names.cgroup, .exe = names.program};
  if (!names.user.empty() && !absl::SimpleAtoi(names.user, &owner.uid)) {
    TPX_ASSIGN_OR_RETURN(owner.uid, lookup.user(names.user));
  }
  if (!names.group.empty() && !absl::SimpleAtoi(names.group, &owner.gid)) {
    TPX_ASSIGN_OR_RETURN(owner.gid, lookup.group(names.group));
  }
  if (owner.cgroup.starts_with('/')) return owner;
  return absl::InvalidArgumentError(
      StrCat("--cgroup ", Quote(owner.cgroup),
             ": expected a path below the root of cgroup v2, such as /system.slice"));
}

absl::StatusOr<FlowExplained> ExplainFlow(const control::Paths& paths, const std::string& candidate_file,
                                          const control::TrialFlow& flow) {
  FlowExplained explained{};
  TPX_ASSIGN_OR_RETURN(explained.facts, Ask(paths, candidate_file, flow));
  explained.reason = observe::NameOf(explained.facts.reason);
  explained.verdict = VerdictOf(explained);
  explained.outcome = OutcomeOf(explained, flow);
  explained.action = explained.facts.rule ? ActionName(explained.facts.rule->action) : "";
  explained.steps = StepsOf(explained, flow);
  explained.notes = {"a new flow is judged; flows and sockets that exist keep their verdict"};
  explained.notes.insert(explained.notes.end(), explained.facts.notes.begin(), explained.facts.notes.end());
  return explained;
}

}  // namespace tpx::app
