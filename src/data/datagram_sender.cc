// SPDX-License-Identifier: Apache-2.0
#include "tpx/data/datagram_sender.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <span>
#include <utility>

#include "absl/hash/hash.h"
#include "tpx/sys/udp_raw.h"

namespace tpx::data {
namespace {

// The length field of UDP and of IPv4 bounds a train like a datagram.
constexpr uint32_t kTrainBytes = 65'000;

int SendDatagram(int fd, const iovec& datagram, const sys::UdpDeparture& how) {
  if (how.raw_source.port == 0) return sys::SendUdp(fd, {&datagram, 1}, how);
  return sys::SendRawUdp(fd, {static_cast<const char*>(datagram.iov_base), datagram.iov_len}, how);
}

}  // namespace

DatagramSender::DatagramSender(io::BufferRing& buffers, SharedSlot& slot, OnFailure on_failure)
    : buffers_(buffers), slot_(slot), on_failure_(std::move(on_failure)) {}

bool DatagramSender::SameWay(const Train& train, const Outgoing& outgoing) {
  return train.fd == outgoing.fd && train.how.destination == outgoing.how.destination &&
         train.how.hops == outgoing.how.hops && train.how.traffic_class == outgoing.how.traffic_class;
}

bool DatagramSender::Fits(const Train& train, uint32_t segment, uint32_t segments, uint32_t bytes) {
  return !train.closed && train.trains && segment <= train.segment && segment != 0 &&
         train.parts < kSegments && train.segments + segments <= kSegments &&
         train.bytes + bytes <= kTrainBytes && (segment == train.segment || segments == 1);
}

void DatagramSender::Add(const Outgoing& outgoing) {
  const bool is_train = outgoing.how.segment_size != 0 && outgoing.how.segment_size < outgoing.len;
  const uint32_t segment = is_train ? outgoing.how.segment_size : outgoing.len;
  const uint32_t segments = is_train ? (outgoing.len + segment - 1) / segment : 1;
  Train& train = PlaceOf(outgoing);
  if (train.fd >= 0 && !(SameWay(train, outgoing) && Fits(train, segment, segments, outgoing.len)))
    Send(train);
  if (train.fd < 0) Begin(train, outgoing, segment);
  train.part[train.parts] = {.iov_base = const_cast<char*>(outgoing.data), .iov_len = outgoing.len};
  train.buffer[train.parts++] = outgoing.buffer;
  train.segments += segments;
  train.bytes += outgoing.len;
  train.closed = segment == 0 || segment < train.segment || outgoing.len % segment != 0;
}

DatagramSender::Train& DatagramSender::PlaceOf(const Outgoing& outgoing) {
  return trains_[absl::HashOf(outgoing.fd, outgoing.how.destination) % kPlaces];
}

void DatagramSender::Begin(Train& train, const Outgoing& outgoing, uint32_t segment) {
  train.fd = outgoing.fd;
  train.session = outgoing.session;
  train.how = outgoing.how;
  train.segment = segment;
  train.trains = outgoing.trains;
  open_ |= uint64_t{1} << (&train - trains_.data());
}

void DatagramSender::FlushSocket(int fd) {
  for (uint64_t left = open_; left != 0; left &= left - 1) {
    Train& train = trains_[static_cast<size_t>(std::countr_zero(left))];
    if (train.fd == fd) Send(train);
  }
}

void DatagramSender::Flush() {
  while (open_ != 0) Send(trains_[static_cast<size_t>(std::countr_zero(open_))]);
}

void DatagramSender::Send(Train& train) {
  const std::span<const iovec> parts(train.part.data(), train.parts);
  if (train.segments > 1) {
    train.how.segment_size = static_cast<uint16_t>(train.segment);
    const int result = train.trains ? sys::SendUdp(train.fd, parts, train.how) : -EIO;
    if (result == -EAGAIN || result == -ENOBUFS) {
      slot_.Add(TPX_C_UDP_DROPPED, train.segments);
    } else if (result < 0) {
      // EIO: the device cannot segment; EINVAL, EMSGSIZE: a segment is too large for
      // the path; or the error of an earlier datagram. Each now fares for itself.
      if (result == -EIO && train.trains) Report(train, train.how, train.part[0], result);
      SendSingly(train);
    }
  } else {
    SendOne(train, train.part[0]);
  }
  for (uint32_t i = 0; i < train.parts; ++i) buffers_.Return(train.buffer[i]);
  train.fd = -1;
  open_ &= ~(uint64_t{1} << (&train - trains_.data()));
  ++sent_;
  train.segments = train.bytes = train.parts = 0;
}

void DatagramSender::SendSingly(const Train& train) {
  for (uint32_t i = 0; i < train.parts; ++i) {
    const auto [base, len] = train.part[i];
    for (size_t at = 0; at < len; at += train.segment) {
      SendOne(train, {.iov_base = static_cast<char*>(base) + at,
                      .iov_len = std::min<size_t>(train.segment, len - at)});
    }
  }
}

bool DatagramSender::Report(const Train& train, const sys::UdpDeparture& how, iovec datagram, int error) {
  return on_failure_(
      {.fd = train.fd, .session = train.session, .how = how, .datagram = datagram, .error = error});
}

void DatagramSender::SendOne(const Train& train, iovec datagram) {
  sys::UdpDeparture how = train.how;
  how.segment_size = 0;
  int result = SendDatagram(train.fd, datagram, how);
  if (result >= 0) return;
  if (Report(train, how, datagram, result)) result = SendDatagram(train.fd, datagram, how);
  if (result < 0) slot_.Add(TPX_C_UDP_DROPPED);
}

}  // namespace tpx::data
