// SPDX-License-Identifier: Apache-2.0
#include "support/connection.h"

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include "support/check.h"

namespace tpx::test {
namespace {

UniqueFd BoundSocket(const Endpoint& at, int type) {
  UniqueFd fd(socket(AF_INET6, type | SOCK_CLOEXEC, 0));
  TPX_PCHECK(fd.get() >= 0);
  const int one = 1, zero = 0;
  TPX_PCHECK(setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) == 0);
  TPX_PCHECK(setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof(zero)) == 0);
  TPX_PCHECK(setsockopt(fd.get(), IPPROTO_IPV6, IPV6_FREEBIND, &one, sizeof(one)) == 0);
  sockaddr_storage address{};
  socklen_t length = at.ToSockaddr6(address);
  TPX_PCHECK(bind(fd.get(), reinterpret_cast<sockaddr*>(&address), length) == 0) << at.ToString();
  return fd;
}

// The first to close sends its FIN and gets the other's: it is left in TIME_WAIT.
void CloseInOrder(UniqueFd& first, UniqueFd& second) {
  TPX_PCHECK(shutdown(first.get(), SHUT_WR) == 0);
  pollfd end{.fd = second.get(), .events = POLLIN, .revents = 0};
  TPX_PCHECK(poll(&end, 1, 1000) == 1);
  second.Reset();
  end.fd = first.get();
  TPX_PCHECK(poll(&end, 1, 1000) == 1);
  first.Reset();
}

}  // namespace

Connection::Connection(const Endpoint& client, const Endpoint& server)
    : listener_(BoundSocket(server, SOCK_STREAM)) {
  TPX_PCHECK(listen(listener_.get(), 1) == 0);
  client_fd_ = BoundSocket(client, SOCK_STREAM);
  ConnectTo(client_fd_, server);
  sockaddr_storage address{};
  socklen_t length = sizeof(address);
  server_fd_ =
      UniqueFd(accept4(listener_.get(), reinterpret_cast<sockaddr*>(&address), &length, SOCK_CLOEXEC));
  TPX_PCHECK(server_fd_.get() >= 0);
  client_ = Endpoint::FromSockaddr(*reinterpret_cast<sockaddr*>(&address));
  listener_.Reset();
}

void Connection::CloseServerFirst() { CloseInOrder(server_fd_, client_fd_); }

void Connection::CloseClientFirst() { CloseInOrder(client_fd_, server_fd_); }

void Connection::Abort() {
  const linger at_once{.l_onoff = 1, .l_linger = 0};
  for (UniqueFd* fd : {&client_fd_, &server_fd_}) {
    TPX_PCHECK(setsockopt(fd->get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once)) == 0);
    fd->Reset();
  }
}

UniqueFd DatagramSocket(const Endpoint& at) { return BoundSocket(at, SOCK_DGRAM); }

UniqueFd DatagramSocket(const Endpoint& at, uint32_t mark) {
  UniqueFd fd = DatagramSocket(at);
  TPX_PCHECK(setsockopt(fd.get(), SOL_SOCKET, SO_MARK, &mark, sizeof(mark)) == 0);
  return fd;
}

void ConnectTo(const UniqueFd& socket, const Endpoint& peer) {
  sockaddr_storage address{};
  socklen_t length = peer.ToSockaddr6(address);
  TPX_PCHECK(connect(socket.get(), reinterpret_cast<sockaddr*>(&address), length) == 0) << peer.ToString();
}

}  // namespace tpx::test
