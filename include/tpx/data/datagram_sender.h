// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/uio.h>

#include <array>
#include <bit>
#include <cstdint>
#include <functional>
#include <utility>

#include "tpx/data/shared_slot.h"
#include "tpx/io/buffer_ring.h"
#include "tpx/io/token.h"
#include "tpx/sys/udp_socket.h"

namespace tpx::data {

// Bytes of a received buffer on their way out: one datagram, or a train of them.
struct Outgoing {
  int fd = -1;         // borrowed; whoever closes it calls FlushSocket first
  io::Token session;   // for the report of a failure
  bool trains = true;  // the socket and its way out can segment; a raw one cannot
  sys::UdpDeparture how;
  const char* data = nullptr;
  uint32_t len = 0;
  uint16_t buffer = 0;  // that holds the bytes; the sender returns it
};

// Gathers datagrams of one flow and one length that arrive one after the other
// and sends them as one train (UDP_SEGMENT), which costs the stack little more
// than one datagram. What arrived as a train leaves as one. Order within a flow
// is kept; nothing waits beyond Flush. A flow has a place by its hash; one that
// finds its place taken sends the other's train.
class DatagramSender {
 public:
  // A datagram that could not be sent; -EIO: a train that could not be segmented,
  // whose datagrams are sent by themselves.
  struct Failure {
    int fd;
    io::Token session;
    const sys::UdpDeparture& how;
    iovec datagram;
    int error;  // negative errno
  };
  // Returns whether to try once more.
  using OnFailure = std::function<bool(const Failure&)>;

  DatagramSender(io::BufferRing& buffers, SharedSlot& slot, OnFailure on_failure);

  void Add(const Outgoing& outgoing);
  void FlushSocket(int fd);
  void Flush();
  int open() const { return std::popcount(open_); }  // flows that wait
  // How many trains and single datagrams were sent since the last time.
  uint32_t TakeSent() { return std::exchange(sent_, 0); }

 private:
  static constexpr uint32_t kPlaces = 64;
  static constexpr size_t kSegments = 64;  // UDP_MAX_SEGMENTS of the oldest kernels

  struct Train {
    int fd = -1;  // -1: unused
    io::Token session;
    sys::UdpDeparture how;
    uint32_t segment = 0;  // length of all but the last
    uint32_t segments = 0;
    uint32_t bytes = 0;
    bool closed = false;  // ends with a shorter one
    bool trains = true;
    uint32_t parts = 0;
    std::array<iovec, kSegments> part;
    std::array<uint16_t, kSegments> buffer;
  };

  static bool SameWay(const Train& train, const Outgoing& outgoing);
  static bool Fits(const Train& train, uint32_t segment, uint32_t segments, uint32_t bytes);
  Train& PlaceOf(const Outgoing& outgoing);
  void Begin(Train& train, const Outgoing& outgoing, uint32_t segment);
  void Send(Train& train);
  bool Report(const Train& train, const sys::UdpDeparture& how, iovec datagram, int error);
  void SendSingly(const Train& train);
  void SendOne(const Train& train, iovec datagram);

  io::BufferRing& buffers_;
  SharedSlot& slot_;
  const OnFailure on_failure_;
  std::array<Train, kPlaces> trains_;
  uint64_t open_ = 0;  // a bit for each place in use
  uint32_t sent_ = 0;
};

}  // namespace tpx::data
