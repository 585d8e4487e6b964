// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "tpx/base/address.h"
#include "tpx/base/unique_fd.h"
#include "tpx/data/shared_slot.h"
#include "tpx/sys/socket.h"

namespace tpx::data {

// Where accepted connections go.
class AcceptSink {
 public:
  virtual ~AcceptSink() = default;
  // False: could not be served because the system is out of something.
  virtual bool OnAccepted(UniqueFd client, const Endpoint& address, tpx_listener listener) = 0;
};

// A worker's three TCP listeners, of which sk_lookup picks the one that the verdict asks for.
//
// The ring does not know them: they are in an epoll instance, and it is that
// which the ring polls. A poll request holds a reference on its file, and after
// a SIGKILL the kernel drops those of a ring some time after the process has
// gone; a listener polled by the ring would stay in the sockmap for as long and
// take connections that nobody answers (Linux 6.18: after 20 of 20 kills, and
// after none of 20 through epoll). Out of the ring it is closed by the exit itself.
class Acceptor {
 public:
  static absl::StatusOr<std::unique_ptr<Acceptor>> Create(const sys::ListenerOptions& options,
                                                          SharedSlot& slot);

  int listener_fd(tpx_listener kind) const { return listener_[kind].get(); }
  int poll_fd() const { return epoll_.get(); }  // readable while a connection waits
  uint16_t port() const { return port_; }

  enum class Outcome { kDry, kBudgetUsed, kShortage };
  // Takes at most `budget` connections. kShortage: the system is out of
  // descriptors or memory; trying again at once is of no use.
  Outcome Accept(uint32_t budget, AcceptSink& sink);

  // Between Pause and Resume poll_fd is silent and connections wait in the queue.
  void Pause();
  void Resume();

  // Resets at most `budget` waiting connections; works without a free
  // descriptor as well. Returns how many.
  uint32_t ResetWaiting(uint32_t budget);

  // Resets what waits and takes nothing any more. The descriptors stay valid.
  void Shutdown();

 private:
  explicit Acceptor(SharedSlot& slot) : slot_(slot) {}
  Outcome AcceptFrom(tpx_listener listener, uint32_t& budget, AcceptSink& sink);

  SharedSlot& slot_;
  UniqueFd listener_[TPX_LISTENER_KINDS];  // those of TCP
  UniqueFd epoll_;
  UniqueFd reserve_;  // given up for the moment in which a connection must be taken to be reset
  uint16_t port_ = 0;
};

}  // namespace tpx::data
