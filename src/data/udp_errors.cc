// SPDX-License-Identifier: Apache-2.0
#include "tpx/data/udp_errors.h"

#include <netinet/in.h>

#include <cerrno>
#include <utility>

#include "tpx/sys/socket.h"
#include "tpx/sys/udp_raw.h"

namespace tpx::data {
namespace {

constexpr size_t kQuotedBytes = 1280;  // more than any ICMP error quotes

constexpr tpx_listener kKinds[] = {TPX_LISTENER_UDP_MASQUERADE, TPX_LISTENER_UDP_PRESERVE,
                                   TPX_LISTENER_UDP_PAIR};

UdpKey FlowOf(const UdpSession& session, const Endpoint& destination) {
  UdpKey flow = session.key;
  if (!flow.is_pair()) flow.destination = destination;
  return flow;
}

}  // namespace

UdpErrors::UdpErrors(sys::IcmpSender icmp, IcmpBudget& budget, DecisionSource& decisions, SharedSlot& slot,
                     UdpTable& table)
    : icmp_(std::move(icmp)), budget_(budget), decisions_(decisions), slot_(slot), table_(table) {}

bool UdpErrors::OnSendFailure(const DatagramSender::Failure& failure) {
  UdpSession* session = table_.FindByIndex(failure.session.index, failure.session.generation);
  if (session == nullptr || session->phase != UdpSession::Phase::kOpen) return false;
  if (failure.error == -EAGAIN || failure.error == -ENOBUFS) return false;
  if (failure.error == -EIO) session->no_trains = true;
  if (failure.fd != session->upstream.get()) {
    TakeOfReplies(failure);
    return failure.error != -EMSGSIZE;
  }
  if (failure.error == -EMSGSIZE && MayFragment(*session, failure.how.destination)) {
    AllowFragments(*session, true);
    return true;
  }
  // Any other error is that of an earlier datagram, and now taken.
  const uint32_t mtu = TakeOf(*session);
  if (failure.error != -EMSGSIZE) return true;
  if (mtu != 0) {
    Answer(sys::IcmpProblem::kTooBig, {}, mtu, FlowOf(*session, failure.how.destination),
           {static_cast<const char*>(failure.datagram.iov_base), failure.datagram.iov_len});
  }
  return false;
}

bool UdpErrors::MayFragment(const UdpSession& session, const Endpoint& destination) {
  const UdpKey flow = FlowOf(session, destination);
  const auto verdict = decisions_.Find(data::FlowOf(IPPROTO_UDP, flow.client, flow.destination));
  return verdict.has_value() && verdict->fragmentable != 0;
}

void UdpErrors::AllowFragments(UdpSession& session, bool allow) {
  if (session.fragments == allow) return;
  session.fragments = allow;
  sys::AllowFragments(session.upstream.get(), session.is_v4(), allow);
}

uint32_t UdpErrors::TakeOf(UdpSession& session) {
  char payload[kQuotedBytes];
  uint32_t mtu = 0;
  sys::UdpError error;
  while (sys::TakeUdpError(session.upstream.get(), payload, error) == 0) {
    if (!error.from_network) {
      if (error.error == EMSGSIZE) mtu = error.mtu;
      continue;
    }
    const UdpKey flow = FlowOf(session, error.destination);
    slot_.Add(TPX_C_UDP_ICMP_ERRORS);
    const sys::IcmpProblem problem = sys::IcmpProblemOf(error.v4, error.type, error.code);
    if (problem == sys::IcmpProblem::kTooBig && MayFragment(session, flow.destination)) {
      AllowFragments(session, true);
      continue;
    }
    // To the client of a redirected flow only its own destination exists.
    const IpAddr& from = flow.is_pair() ? flow.destination.addr : error.offender;
    if (problem != sys::IcmpProblem::kNone) {
      Answer(problem, from, error.mtu, flow, {payload, error.payload_len});
    }
  }
  return mtu;
}

void UdpErrors::HopsExceeded(const UdpKey& flow, std::span<const char> datagram) {
  Answer(sys::IcmpProblem::kTimeExceeded, {}, 0, flow, datagram);
}

void UdpErrors::TakeOfReplies(const DatagramSender::Failure& failure) {
  Endpoint server = failure.how.raw_source;
  const bool raw = server.port != 0;
  if (!raw && sys::OriginalDestination(failure.fd, server) < 0) return;
  sys::UdpError error;
  while ((raw ? sys::TakeRawUdpError(failure.fd, server.port, error)
              : sys::TakeUdpError(failure.fd, {}, error)) == 0) {
    if (error.from_network && error.error == ECONNREFUSED) ForgetClient(error.destination, server);
  }
}

// A client that is gone: its sessions end, and the server learns of it by the
// stack's own ICMP answer to its next datagram. Where the client's address is
// preserved that datagram is forwarded, and the client's answer to it would end
// at the reply socket; so the server is told at once.
void UdpErrors::ForgetClient(const Endpoint& client, const Endpoint& server) {
  for (tpx_listener kind : kKinds) {
    UdpKey key{.client = client, .destination = {}, .listener = kind};
    if (key.is_pair()) key.destination = server;
    UdpSession* gone = table_.Find(key);
    if (gone == nullptr || gone->gone) continue;
    Endpoint own;
    if (sys::OriginalDestination(gone->upstream.get(), own) == 0 && own.addr == key.client.addr) {
      Answer(sys::IcmpProblem::kPortUnreachable, own.addr, 0, {.client = server, .destination = own}, {});
    }
    gone->gone = true;
    gone_.push_back({.index = gone->index, .generation = gone->generation});
  }
}

std::vector<io::Token> UdpErrors::TakeGone() { return std::exchange(gone_, {}); }

// `from` empty: the gateway's own address.
void UdpErrors::Answer(sys::IcmpProblem problem, const IpAddr& from, uint32_t mtu, const UdpKey& flow,
                       std::span<const char> quoted) {
  // As in the kernel, path MTU discovery has no limit; what servers say has theirs.
  const bool own =
      problem == sys::IcmpProblem::kTimeExceeded || problem == sys::IcmpProblem::kHostUnreachable;
  if (!budget_.Take(flow.client.addr, own, now_ms_)) return slot_.Add(TPX_C_UDP_ICMP_SUPPRESSED);
  const sys::IcmpError error{.problem = problem,
                             .from = from == IpAddr{} ? sys::SourceTowards(flow.client.addr) : from,
                             .source = flow.client,
                             .destination = flow.destination,
                             .mtu = mtu,
                             .payload = quoted};
  if (icmp_.Send(error) == 0) slot_.Add(TPX_C_UDP_ICMP_SENT);
}

}  // namespace tpx::data
