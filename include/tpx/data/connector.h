// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tpx/base/address.h"
#include "tpx/base/unique_fd.h"
#include "tpx/data/decision_source.h"
#include "tpx/data/shared_slot.h"
#include "tpx/data/worker.h"
#include "tpx/sys/socket.h"

namespace tpx::data {

// The counter of a connection that failed with this errno.
tpx_worker_counter ConnectFailureCounter(int error);

// True for the errors by which the system says that it has no more
// descriptors or memory to give.
bool IsShortage(int error);

// Starts the connection to where a client wanted to go.
class Connector {
 public:
  Connector(const WorkerOptions& options, uint16_t listen_port, SharedSlot& slot);

  struct Result {
    UniqueFd server;        // connecting; empty: refused, and counted
    bool shortage = false;  // refused because the system is out of something
  };
  // `client` is a socket accepted from `listener`, which says what the server
  // shall see, or that the policy names the server.
  Result Dial(int client, const Endpoint& client_address, tpx_listener listener);

 private:
  int Check(int client, const Endpoint& client_address, Endpoint& destination, int& hops);
  bool FindTarget(const Endpoint& client_address, const Endpoint& destination, Endpoint& target);
  int Open(const Endpoint& destination, int hops, UniqueFd& out) const;
  int DialFrom(const Endpoint* source, const Endpoint& destination, int hops, UniqueFd& out) const;
  int DialTarget(const Endpoint& original, const Endpoint& target, int hops, UniqueFd& out) const;
  int DialPreserving(Endpoint source, const Endpoint& destination, int hops, UniqueFd& out);

  const sys::UpstreamOptions upstream_;
  const uint16_t listen_port_;
  const int conntrack_count_fd_;
  DecisionSource* const decisions_;
  SharedSlot& slot_;
};

}  // namespace tpx::data
