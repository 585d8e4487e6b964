// SPDX-License-Identifier: Apache-2.0
#include "tpx/data/datagram_sender.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "tpx/base/unique_fd.h"
#include "tpx/sys/udp_raw.h"

namespace tpx::data {
namespace {

constexpr uint32_t kBufferSize = 65'536;
constexpr size_t kReceivers = 100;  // more than a sender has places

class DatagramSenderTest : public testing::Test {
 protected:
  void SetUp() override {
    auto ring = io::Ring::Create(8, 8);
    ASSERT_TRUE(ring.ok()) << ring.status();
    ring_ = *std::move(ring);
    auto buffers = io::BufferRing::Create(*ring_, 0, 128, kBufferSize);
    ASSERT_TRUE(buffers.ok()) << buffers.status();
    buffers_ = *std::move(buffers);
    for (Receiver& r : receivers_) r = MakeReceiver();
    sender_fd_.Reset(sys::OpenUdpUpstream(true, 0));
    ASSERT_TRUE(sender_fd_);
  }

  struct Receiver {
    UniqueFd fd;
    Endpoint at;
  };

  static Receiver MakeReceiver() {
    Receiver r;
    r.fd.Reset(socket(AF_INET6, SOCK_DGRAM | SOCK_NONBLOCK, 0));
    const int size = 64 << 20;
    setsockopt(r.fd.get(), SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
    sockaddr_in6 any{};
    any.sin6_family = AF_INET6;
    EXPECT_EQ(bind(r.fd.get(), reinterpret_cast<sockaddr*>(&any), sizeof(any)), 0);
    socklen_t length = sizeof(any);
    getsockname(r.fd.get(), reinterpret_cast<sockaddr*>(&any), &length);
    r.at = {.addr = *IpAddr::Parse("127.0.0.1"), .port = ntohs(any.sin6_port)};
    return r;
  }

  // A datagram, or with `segment` a train, on its way to a receiver.
  void Add(DatagramSender& sender, size_t receiver, const std::string& bytes, uint16_t segment = 0) {
    const uint16_t id = next_buffer_++ % 128;
    memcpy(buffers_->data(id), bytes.data(), bytes.size());
    sender.Add({.fd = sender_fd_.get(),
                .session = {},
                .how = {.destination = receivers_[receiver].at, .segment_size = segment},
                .data = buffers_->data(id),
                .len = static_cast<uint32_t>(bytes.size()),
                .buffer = id});
  }

  std::vector<std::string> Received(size_t receiver) {
    std::vector<std::string> all;
    std::string bytes(kBufferSize, 0);
    for (ssize_t n; (n = recv(receivers_[receiver].fd.get(), bytes.data(), bytes.size(), 0)) >= 0;) {
      all.push_back(bytes.substr(0, static_cast<size_t>(n)));
    }
    return all;
  }

  tpx_worker shared_{};
  SharedSlot slot_{&shared_};
  std::unique_ptr<io::Ring> ring_;
  std::unique_ptr<io::BufferRing> buffers_;
  Receiver receivers_[kReceivers];
  UniqueFd sender_fd_;
  uint16_t next_buffer_ = 0;
  int failures_ = 0;
  DatagramSender::OnFailure on_failure_ = [this](const DatagramSender::Failure&) { return ++failures_ < 0; };
};

std::vector<std::string> Cut(const std::string& bytes, uint16_t segment) {
  if (segment == 0 || bytes.empty()) return {bytes};
  std::vector<std::string> parts;
  for (size_t at = 0; at < bytes.size(); at += segment) parts.push_back(bytes.substr(at, segment));
  return parts;
}

TEST_F(DatagramSenderTest, NothingLeavesBeforeItIsFlushed) {
  DatagramSender sender(*buffers_, slot_, on_failure_);
  Add(sender, 0, "one");
  EXPECT_TRUE(Received(0).empty());
  sender.FlushSocket(sender_fd_.get());
  EXPECT_EQ(Received(0), std::vector<std::string>{"one"});
  sender.Flush();
  EXPECT_TRUE(Received(0).empty());
}

TEST_F(DatagramSenderTest, TellsHowManySendsThereWere) {
  DatagramSender sender(*buffers_, slot_, on_failure_);
  for (int i = 0; i < 10; ++i) Add(sender, 0, "same");
  EXPECT_EQ(sender.open(), 1);
  sender.Flush();
  EXPECT_EQ(sender.open(), 0);
  EXPECT_EQ(sender.TakeSent(), 1u);
  for (const char* bytes : {"one", "four", "seven"}) Add(sender, 0, bytes);
  sender.Flush();
  EXPECT_EQ(sender.TakeSent(), 3u);
  EXPECT_EQ(sender.TakeSent(), 0u);
}

TEST_F(DatagramSenderTest, AnEmptyDatagramIsADatagram) {
  DatagramSender sender(*buffers_, slot_, on_failure_);
  for (const char* bytes : {"", "", "x", ""}) Add(sender, 0, bytes);
  sender.Flush();
  EXPECT_EQ(Received(0), (std::vector<std::string>{"", "", "x", ""}));
}

// Whatever the lengths: each flow gets its datagrams whole and in order.
TEST_F(DatagramSenderTest, KeepsBoundariesAndOrderOfRandomTraffic) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  DatagramSender sender(*buffers_, slot_, on_failure_);
  for (int round = 0; round < 200; ++round) {
    std::vector<std::string> expected[kReceivers];
    const size_t receivers = round % 2 == 0 ? 3 : kReceivers;
    const size_t count = random() % 100;
    const uint16_t usual = static_cast<uint16_t>(random() % 1400 + 1);
    for (size_t i = 0; i < count; ++i) {
      const size_t receiver = random() % receivers;
      const size_t pick = random() % 8;
      const uint16_t segment = pick == 0 ? static_cast<uint16_t>(random() % 1400 + 1) : pick < 3 ? usual : 0;
      size_t length = pick == 7 ? random() % 3000 : usual;
      if (segment != 0) length = random() % (size_t{segment} * 40) + 1;
      std::string bytes(length, 0);
      for (char& byte : bytes) byte = static_cast<char>(random());
      Add(sender, receiver, bytes, segment);
      for (std::string& part : Cut(bytes, segment)) expected[receiver].push_back(std::move(part));
    }
    sender.Flush();
    for (size_t r = 0; r < receivers; ++r) ASSERT_EQ(Received(r), expected[r]) << "round " << round;
  }
  EXPECT_EQ(failures_, 0);
}

TEST_F(DatagramSenderTest, WhatIsTooLargeIsReportedAndCountedAndTheRestIsSent) {
  DatagramSender sender(*buffers_, slot_, on_failure_);
  Add(sender, 0, std::string(65'500, 'a'));  // IPv4 has room for it, the loopback's MTU may not
  Add(sender, 1, std::string(65'520, 'b'));  // no room
  Add(sender, 2, "c");
  sender.Flush();
  EXPECT_TRUE(Received(1).empty());
  EXPECT_EQ(Received(2), std::vector<std::string>{"c"});
  EXPECT_EQ(failures_, 1);
  EXPECT_EQ(shared_.counter[TPX_C_UDP_DROPPED], 1u);
}

TEST_F(DatagramSenderTest, WithoutSegmentationEachGoesByItself) {
  DatagramSender sender(*buffers_, slot_, on_failure_);
  const std::string bytes(10'000, 'x');
  memcpy(buffers_->data(0), bytes.data(), bytes.size());
  sender.Add({.fd = sender_fd_.get(),
              .session = {},
              .trains = false,
              .how = {.destination = receivers_[0].at, .segment_size = 1000},
              .data = buffers_->data(0),
              .len = 10'000,
              .buffer = 0});
  sender.Flush();
  EXPECT_EQ(Received(0), Cut(bytes, 1000));
}

TEST_F(DatagramSenderTest, ARawSocketSendsATrainOneByOne) {
  const Endpoint source{.addr = *IpAddr::Parse("192.0.2.7"), .port = 53};
  const UniqueFd raw(sys::OpenRawUdpReplier(source.addr, 0));
  ASSERT_TRUE(raw);
  DatagramSender sender(*buffers_, slot_, on_failure_);
  std::string bytes(10'500, 0);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i / 7);
  memcpy(buffers_->data(0), bytes.data(), bytes.size());
  sender.Add({.fd = raw.get(),
              .session = {},
              .trains = false,
              .how = {.destination = receivers_[0].at, .segment_size = 1000, .raw_source = source},
              .data = buffers_->data(0),
              .len = static_cast<uint32_t>(bytes.size()),
              .buffer = 0});
  sender.Flush();
  EXPECT_EQ(Received(0), Cut(bytes, 1000));
  EXPECT_EQ(failures_, 0);
}

}  // namespace
}  // namespace tpx::data
