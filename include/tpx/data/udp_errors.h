// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "tpx/data/datagram_sender.h"
#include "tpx/data/decision_source.h"
#include "tpx/data/icmp_budget.h"
#include "tpx/data/shared_slot.h"
#include "tpx/data/udp_table.h"
#include "tpx/io/token.h"
#include "tpx/sys/icmp.h"

namespace tpx::data {

// What goes wrong with datagrams on their way, as ICMP and the kernel report it:
// whom it concerns learns of it by the ICMP error that a router would have sent,
// within the limits of IcmpBudget.
class UdpErrors {
 public:
  // All but `icmp` must outlive it.
  UdpErrors(sys::IcmpSender icmp, IcmpBudget& budget, DecisionSource& decisions, SharedSlot& slot,
            UdpTable& table);

  bool OnSendFailure(const DatagramSender::Failure& failure);  // whether to try once more
  // Passes on what ICMP reports. Returns the size that would have passed where this
  // machine refused a datagram, about which the queue says no more; else 0.
  uint32_t TakeOf(UdpSession& session);
  // A client's datagram that may not go any further.
  void HopsExceeded(const UdpKey& flow, std::span<const char> datagram);

  // IPv4 without the don't-fragment bit: the kernel side has seen it.
  bool MayFragment(const UdpSession& session, const Endpoint& destination);
  static void AllowFragments(UdpSession& session, bool allow);

  void set_now(uint64_t now_ms) { now_ms_ = now_ms; }
  // The sessions of clients that are gone, each once: the caller closes them,
  // where nobody is at work with one.
  std::vector<io::Token> TakeGone();

 private:
  void TakeOfReplies(const DatagramSender::Failure& failure);
  void ForgetClient(const Endpoint& client, const Endpoint& server);
  void Answer(sys::IcmpProblem problem, const IpAddr& from, uint32_t mtu, const UdpKey& flow,
              std::span<const char> quoted);

  sys::IcmpSender icmp_;
  IcmpBudget& budget_;
  DecisionSource& decisions_;
  SharedSlot& slot_;
  UdpTable& table_;
  uint64_t now_ms_ = 1;
  std::vector<io::Token> gone_;
};

}  // namespace tpx::data
