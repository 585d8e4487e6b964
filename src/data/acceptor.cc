// SPDX-License-Identifier: Apache-2.0
#include "tpx/data/acceptor.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <cerrno>

#include "tpx/base/status.h"
#include "tpx/data/connector.h"

namespace tpx::data {
namespace {

constexpr tpx_listener kKinds[] = {TPX_LISTENER_TCP_MASQUERADE, TPX_LISTENER_TCP_PRESERVE,
                                   TPX_LISTENER_TCP_REDIRECT};

UniqueFd OpenReserve(int like) { return UniqueFd(fcntl(like, F_DUPFD_CLOEXEC, 0)); }

}  // namespace

absl::StatusOr<std::unique_ptr<Acceptor>> Acceptor::Create(const sys::ListenerOptions& options,
                                                           SharedSlot& slot) {
  std::unique_ptr<Acceptor> acceptor(new Acceptor(slot));
  sys::ListenerOptions common = options;
  for (tpx_listener kind : kKinds) {
    TPX_ASSIGN_OR_RETURN(acceptor->listener_[kind], sys::TransparentListener(common));
    TPX_ASSIGN_OR_RETURN(common.port, sys::LocalPort(acceptor->listener_[kind].get()));
  }
  acceptor->port_ = common.port;
  acceptor->epoll_ = UniqueFd(epoll_create1(EPOLL_CLOEXEC));
  if (!acceptor->epoll_) return ErrnoStatus(errno, "epoll_create1");
  acceptor->reserve_ = OpenReserve(acceptor->epoll_.get());
  if (!acceptor->reserve_) return ErrnoStatus(errno, "reserve descriptor");
  acceptor->Resume();
  return acceptor;
}

Acceptor::Outcome Acceptor::Accept(uint32_t budget, AcceptSink& sink) {
  Outcome outcome = Outcome::kDry;
  for (tpx_listener kind : kKinds) {
    outcome = AcceptFrom(kind, budget, sink);
    if (outcome != Outcome::kDry) return outcome;
  }
  return outcome;
}

Acceptor::Outcome Acceptor::AcceptFrom(tpx_listener listener, uint32_t& budget, AcceptSink& sink) {
  for (; budget > 0; --budget) {
    Endpoint client;
    const int fd = sys::AcceptConnection(listener_[listener].get(), client);
    if (fd >= 0) {
      if (!sink.OnAccepted(UniqueFd(fd), client, listener)) return Outcome::kShortage;
      continue;
    }
    if (fd == -EAGAIN || fd == -EINVAL) return Outcome::kDry;  // EINVAL: shut down
    if (!IsShortage(-fd)) continue;                            // that connection failed while it waited
    slot_.Add(TPX_C_ACCEPT_ERRORS);
    return Outcome::kShortage;
  }
  return Outcome::kBudgetUsed;
}

void Acceptor::Pause() {
  for (tpx_listener kind : kKinds) epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, listener_fd(kind), nullptr);
}

void Acceptor::Resume() {
  for (tpx_listener kind : kKinds) {
    epoll_event event{};
    event.events = EPOLLIN;
    epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, listener_fd(kind), &event);
  }
}

uint32_t Acceptor::ResetWaiting(uint32_t budget) {
  uint32_t n = 0;
  for (tpx_listener kind : kKinds) {
    while (n < budget) {
      reserve_.Reset();
      Endpoint client;
      const UniqueFd connection(sys::AcceptConnection(listener_[kind].get(), client));
      if (!connection) break;
      ++n;
    }
  }
  if (!reserve_) reserve_ = OpenReserve(epoll_.get());
  slot_.Add(TPX_C_LIMIT_RESET, n);
  return n;
}

void Acceptor::Shutdown() {
  for (tpx_listener kind : kKinds) shutdown(listener_fd(kind), SHUT_RDWR);
}

}  // namespace tpx::data
