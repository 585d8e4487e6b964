// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "tpx/base/address.h"
#include "tpx/base/unique_fd.h"

namespace tpx::test {

// A real TCP connection inside the network namespace, from `client` to
// `server`. Both ends are sockets of this process, each with its own side of the tuple.
class Connection {
 public:
  // The client's port is chosen by the kernel when it is 0.
  Connection(const Endpoint& client, const Endpoint& server);

  const Endpoint& client() const { return client_; }
  int client_fd() const { return client_fd_.get(); }
  int server_fd() const { return server_fd_.get(); }

  // Both end in order; the side named first is left in TIME_WAIT, of the other nothing is left.
  void CloseServerFirst();
  void CloseClientFirst();
  // Both vanish at once.
  void Abort();

 private:
  UniqueFd listener_, client_fd_, server_fd_;
  Endpoint client_;
};

// A UDP socket for both families, bound to `at`, whether the address is the machine's or not.
UniqueFd DatagramSocket(const Endpoint& at);
// The same with a mark: the steering mark makes it one that answers clients.
UniqueFd DatagramSocket(const Endpoint& at, uint32_t mark);
void ConnectTo(const UniqueFd& socket, const Endpoint& peer);

}  // namespace tpx::test
