// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "tpx/base/unique_fd.h"
#include "tpx/data/datagram_sender.h"
#include "tpx/data/descriptors.h"
#include "tpx/data/gathering.h"
#include "tpx/data/reply_sockets.h"
#include "tpx/data/shared_slot.h"
#include "tpx/data/spare_upstreams.h"
#include "tpx/data/udp_affinity.h"
#include "tpx/data/udp_answers.h"
#include "tpx/data/udp_errors.h"
#include "tpx/data/udp_table.h"
#include "tpx/data/udp_translations.h"
#include "tpx/data/worker.h"
#include "tpx/io/buffer_ring.h"
#include "tpx/io/ring.h"
#include "tpx/io/token.h"
#include "tpx/sys/icmp.h"

namespace tpx::data {

// Relays the UDP of one worker. Datagrams of clients come in by the listeners,
// those of servers by one socket per session; both are received by multishot
// requests into shared buffers and sent from there, trains as trains.
//
// What cannot be sent at once is dropped and counted, as a router would; a
// datagram is never delivered in part. Errors that ICMP reports about upstream
// datagrams go back to the client as the ICMP error that a router would have
// sent.
class UdpRelay {
 public:
  // Token kinds of this object's requests.
  static constexpr uint8_t kListenerKind = 32, kUpstreamKind = 33, kCancelledKind = 34;

  static absl::StatusOr<std::unique_ptr<UdpRelay>> Create(const WorkerOptions& options, uint16_t port,
                                                          io::Ring& ring, SharedSlot& slot,
                                                          Descriptors& descriptors);

  int listener_fd(tpx_listener kind) const { return listener_[kind].get(); }

  void Start();  // begins to receive
  void OnCompletion(io::Token token, const io::Ring::Completion& completion, uint64_t now_ms);
  // After the completions of one turn: sends what was gathered, ages sessions.
  void EndTurn(uint64_t now_ms);
  uint64_t NextTimeout() const;
  // Whether it is worth while to let datagrams gather before the next turn.
  bool gathers() const { return gathering_.on(); }

  // Whether ports or descriptors ran out a moment ago.
  bool is_short(uint64_t now_ms) const;
  bool busy(uint64_t now_ms) const;  // sessions are open and datagrams came lately
  void CloseAll();                   // sessions; the listeners stop receiving
  bool quiet() const { return table_.live() == 0; }

 private:
  struct Received;  // one receive call's worth

  UdpRelay(const WorkerOptions& options, uint16_t port, io::Ring& ring, SharedSlot& slot,
           Descriptors& descriptors, std::unique_ptr<io::BufferRing> buffers, sys::IcmpSender icmp);

  void Receive(int fd, io::Token token);
  void ReceiveFrom(UdpSession& session);
  void StopReceiving(const UdpSession& session);  // its last completion follows
  void OnListener(const io::Ring::Completion& completion, uint32_t kind, uint64_t now_ms);
  void OnUpstream(const io::Ring::Completion& completion, UdpSession& session, uint64_t now_ms);
  void FromClient(Received& received, tpx_listener kind, uint64_t now_ms);
  void FromServer(Received& received, UdpSession& session, uint64_t now_ms);
  bool Confirm(UdpSession& session, const Endpoint& server);
  void Send(const Outgoing& outgoing);
  Outgoing Onward(const Received& received, UdpSession& session, uint64_t now_ms);
  bool Refused(const Received& received);
  UdpSession* SessionFor(const UdpKey& key, uint64_t now_ms);
  UdpSession* Victim(absl::FunctionRef<UdpSession*()> choose, uint64_t now_ms);
  int OpenUpstream(UdpSession& session, uint64_t now_ms);
  int BindUpstream(UdpSession& session, uint64_t now_ms);
  int TakePort(UdpSession& session, uint64_t now_ms);
  int MakeUpstream(UdpSession& session);
  void FreeDescriptorBut(const UdpSession& session);
  uint32_t FewDescriptors() const;
  void Replace(UdpSession& session);  // closes it early, for another
  void Close(UdpSession& session);
  void End(UdpSession& session);
  void Discard(UdpSession& session);
  uint32_t MostSpares() const;
  void TendSpares(uint64_t now_ms);
  void CloseGone();

  const WorkerOptions options_;
  const uint16_t port_;
  io::Ring& ring_;
  SharedSlot& slot_;
  Descriptors& descriptors_;
  std::unique_ptr<io::BufferRing> buffers_;
  std::array<UniqueFd, TPX_LISTENER_KINDS> listener_;  // those of UDP
  UdpTable table_;
  SpareUpstreams spares_;
  UdpAffinity affinity_;
  UdpAnswers answers_;
  UdpTranslations translations_;
  UdpErrors errors_;
  DatagramSender sender_;
  ReplySockets replies_;
  Gathering gathering_;
  uint32_t received_ = 0;           // buffers in this turn
  std::vector<io::Token> starved_;  // requests that ended for want of a buffer
  uint64_t last_traffic_ms_ = 0;
  uint64_t ports_short_ms_ = 0;  // when others had taken what the limit leaves
  uint32_t turn_ = 1;
  bool reuses_sockets_ = false;
  bool closing_ = false;
};

}  // namespace tpx::data
