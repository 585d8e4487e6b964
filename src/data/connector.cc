// SPDX-License-Identifier: Apache-2.0
#include "tpx/data/connector.h"

#include <netinet/in.h>
#include <unistd.h>

#include <cerrno>

#include "tpx/data/forbidden.h"

namespace tpx::data {
namespace {

constexpr uint16_t kOtherHalf = 0x8000;
constexpr uint16_t kFirstUnprivilegedPort = 1024;

// Whether connections of this namespace are tracked. The client's own is in the
// count by now, so one read is exact, also right after tracking began.
bool IsTracked(int count_fd) {
  char digit = '0';
  return count_fd >= 0 && pread(count_fd, &digit, 1, 0) == 1 && digit != '0';
}

}  // namespace

tpx_worker_counter ConnectFailureCounter(int error) {
  switch (error) {
    case ECONNREFUSED:
      return TPX_C_CONNECT_REFUSED;
    case ETIMEDOUT:
      return TPX_C_CONNECT_TIMEOUT;
    case ENETUNREACH:
    case EHOSTUNREACH:
    case ENETDOWN:
    case EHOSTDOWN:
    case EACCES:       // a prohibit route
    case EPROTO:       // ICMP parameter problem
    case ENOPROTOOPT:  // ICMP protocol unreachable
      return TPX_C_CONNECT_UNREACHABLE;
    default:
      return TPX_C_CONNECT_FAILED;
  }
}

bool IsShortage(int error) {
  return error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM;
}

Connector::Connector(const WorkerOptions& options, uint16_t listen_port, SharedSlot& slot)
    : upstream_{.mark = options.own_mark,
                .keepalive = {.idle_s = options.keepalive_idle_s,
                              .interval_s = options.keepalive_interval_s,
                              .count = options.keepalive_count}},
      listen_port_(listen_port),
      conntrack_count_fd_(options.conntrack_count_fd),
      decisions_(options.decisions),
      slot_(slot) {}

Connector::Result Connector::Dial(int client, const Endpoint& client_address, tpx_listener listener) {
  Endpoint destination;
  int hops = 0;
  if (Check(client, client_address, destination, hops) < 0) return {};
  Result result;
  int error = 0;
  if (listener == TPX_LISTENER_TCP_REDIRECT) {
    Endpoint target;
    if (!FindTarget(client_address, destination, target)) return {};
    error = -DialTarget(destination, target, hops, result.server);
  } else if (listener == TPX_LISTENER_TCP_PRESERVE) {
    error = -DialPreserving(client_address, destination, hops, result.server);
  } else {
    error = -DialFrom(nullptr, destination, hops, result.server);
  }
  if (error == 0 || error == EINPROGRESS) return result;
  slot_.Add(ConnectFailureCounter(error));
  result.server.Reset();
  result.shortage = IsShortage(error);
  return result;
}

// Fills in where to go and with which hop limit (0: the system's default). The
// upstream packets get one hop less than the client's had, as from a router:
// whatever way a connection comes back to a proxy, it cannot go round for ever.
int Connector::Check(int client, const Endpoint& client_address, Endpoint& destination, int& hops) {
  if (int r = sys::OriginalDestination(client, destination); r < 0) {
    slot_.Add(TPX_C_CONNECT_FAILED);
    return r;
  }
  if (IsForbidden(client_address, destination, listen_port_)) {
    slot_.Add(TPX_C_LOOP_REFUSED);
    return -ELOOP;
  }
  const int syn_hops = sys::SynHopLimit(client);
  if (syn_hops == 1) {
    slot_.Add(TPX_C_HOPS_EXCEEDED);
    return -EHOSTUNREACH;
  }
  hops = syn_hops > 1 ? syn_hops - 1 : 0;
  return 0;
}

bool Connector::FindTarget(const Endpoint& client_address, const Endpoint& destination, Endpoint& target) {
  const auto verdict = decisions_->Find(FlowOf(IPPROTO_TCP, client_address, destination));
  if (!verdict.has_value() || verdict->action != TPX_ACTION_REDIRECT) {
    slot_.Add(TPX_C_CONNECT_FAILED);
    return false;
  }
  target = TargetOf(*verdict);
  return true;
}

int Connector::Open(const Endpoint& destination, int hops, UniqueFd& out) const {
  const int fd = sys::OpenUpstream(upstream_);
  if (fd < 0) return fd;
  out.Reset(fd);
  return hops == 0 ? 0 : sys::SetHopLimit(fd, destination, hops);
}

int Connector::DialFrom(const Endpoint* source, const Endpoint& destination, int hops, UniqueFd& out) const {
  if (int r = Open(destination, hops, out); r < 0) return r;
  if (source != nullptr) {
    if (int r = sys::BindTransparent(out.get(), *source); r < 0) return r;
  }
  return sys::StartConnect(out.get(), destination);
}

int Connector::DialTarget(const Endpoint& original, const Endpoint& target, int hops, UniqueFd& out) const {
  if (int r = Open(target, hops, out); r < 0) return r;
  decisions_->NoteOriginal(out.get(), original, target);
  return sys::StartConnect(out.get(), target);
}

// The client's port where it is free. While connections are tracked it is not:
// the client's own entry has that tuple. Its port with the highest bit turned is
// as unique as itself, and outside the range from which clients take theirs.
int Connector::DialPreserving(Endpoint source, const Endpoint& destination, int hops, UniqueFd& out) {
  const bool tracked = IsTracked(conntrack_count_fd_);
  if (tracked) source.port ^= kOtherHalf;
  if (tracked) slot_.Add(TPX_C_PORT_CHANGED);
  if (source.port >= kFirstUnprivilegedPort || !tracked) {
    const int r = DialFrom(&source, destination, hops, out);
    if (r != -EADDRINUSE && r != -EADDRNOTAVAIL) return r;
  }
  if (!tracked) slot_.Add(TPX_C_PORT_CHANGED);
  source.port = 0;
  return DialFrom(&source, destination, hops, out);
}

}  // namespace tpx::data
