// SPDX-License-Identifier: Apache-2.0
#include "tpx/sys/udp_raw.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <poll.h>
#include <sys/socket.h>

#include <atomic>
#include <cerrno>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "tpx/base/unique_fd.h"

namespace tpx::sys {
namespace {

constexpr uint32_t kNoMark = 0;

Endpoint At(const char* address, uint16_t port) { return {.addr = *IpAddr::Parse(address), .port = port}; }

std::vector<int> Bytes(const UdpHeader& header) { return {header.begin(), header.end()}; }

TEST(UdpHeader, HasTheChecksumOfIPv4) {
  EXPECT_EQ(Bytes(MakeUdpHeader(At("192.0.2.1", 53), At("198.51.100.2", 40'000), std::string("hello!"))),
            (std::vector<int>{0, 53, 0x9c, 0x40, 0, 14, 0x33, 0x32}));
}

TEST(UdpHeader, HasTheChecksumOfIPv6) {
  EXPECT_EQ(Bytes(MakeUdpHeader(At("2001:db8::1", 53), At("2001:db8:1::2", 40'000), std::string("hello!"))),
            (std::vector<int>{0, 53, 0x9c, 0x40, 0, 14, 0xc3, 0xf3}));
}

TEST(UdpHeader, PadsAnOddLastByteForTheChecksumAlone) {
  EXPECT_EQ(Bytes(MakeUdpHeader(At("192.0.2.1", 53), At("198.51.100.2", 40'000), std::string("hello"))),
            (std::vector<int>{0, 53, 0x9c, 0x40, 0, 13, 0x33, 0x55}));
  EXPECT_EQ(Bytes(MakeUdpHeader(At("2001:db8::1", 53), At("2001:db8:1::2", 40'000), std::string("h"))),
            (std::vector<int>{0, 53, 0x9c, 0x40, 0, 9, 0x9f, 0xf0}));
}

TEST(UdpHeader, OfAnEmptyDatagramIsAllThereIs) {
  EXPECT_EQ(Bytes(MakeUdpHeader(At("192.0.2.1", 53), At("198.51.100.2", 40'000), {})),
            (std::vector<int>{0, 53, 0x9c, 0x40, 0, 8, 0x77, 0x31}));
}

// 0 stands for a checksum that was not made.
TEST(UdpHeader, WritesAZeroChecksumAsItsOtherForm) {
  EXPECT_EQ(Bytes(MakeUdpHeader(At("192.0.2.1", 53), At("198.51.100.2", 40'000), std::string("\x77\x2d", 2))),
            (std::vector<int>{0, 53, 0x9c, 0x40, 0, 10, 0xff, 0xff}));
  EXPECT_EQ(
      Bytes(MakeUdpHeader(At("2001:db8::1", 53), At("2001:db8:1::2", 40'000), std::string("\x07\xef", 2))),
      (std::vector<int>{0, 53, 0x9c, 0x40, 0, 10, 0xff, 0xff}));
}

struct Family {
  const char* loopback;
  const char* foreign;
};

void PrintTo(const Family& family, std::ostream* out) { *out << family.loopback; }

class RawReplierTest : public testing::TestWithParam<Family> {
 protected:
  void SetUp() override {
    const Endpoint any = At(GetParam().loopback, 0);
    receiver_.Reset(OpenUdpUpstream(any.addr.is_v4(), kNoMark));
    ASSERT_EQ(BindUdpTransparent(receiver_.get(), any), 0) << "needs root";
    sockaddr_storage own{};
    socklen_t length = sizeof(own);
    ASSERT_EQ(getsockname(receiver_.get(), reinterpret_cast<sockaddr*>(&own), &length), 0);
    at_ = Endpoint::FromSockaddr(reinterpret_cast<const sockaddr&>(own));
  }

  int Send(int fd, const Endpoint& from, const std::string& bytes, const Endpoint& to) {
    return SendRawUdp(fd, bytes, {.destination = to, .raw_source = from});
  }

  // The next datagram and its sender, which the kernel hands out only if the checksum is right.
  std::pair<std::string, Endpoint> Receive() {
    std::string bytes(65'536, 0);
    sockaddr_storage from{};
    socklen_t length = sizeof(from);
    const ssize_t n = recvfrom(receiver_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT,
                               reinterpret_cast<sockaddr*>(&from), &length);
    if (n < 0) return {"nothing", {}};
    bytes.resize(static_cast<size_t>(n));
    return {bytes, Endpoint::FromSockaddr(reinterpret_cast<const sockaddr&>(from))};
  }

  UniqueFd receiver_;
  Endpoint at_;
};

INSTANTIATE_TEST_SUITE_P(Families, RawReplierTest,
                         testing::Values(Family{"127.0.0.1", "192.0.2.7"}, Family{"::1", "2001:db8::7"}),
                         [](const auto& param) { return param.index == 0 ? "v4" : "v6"; });

TEST_P(RawReplierTest, SendsFromAForeignAddressAndAnyPort) {
  const UniqueFd fd(OpenRawUdpReplier(At(GetParam().foreign, 0).addr, kNoMark));
  ASSERT_TRUE(fd) << fd.get();
  std::mt19937 random(1);
  for (size_t size : {0, 1, 2, 3, 99, 1472, 1473, 4001, 65'507}) {
    std::string bytes(size, 0);
    for (char& byte : bytes) byte = static_cast<char>(random());
    const Endpoint from = At(GetParam().foreign, static_cast<uint16_t>(size % 60'000 + 53));
    ASSERT_EQ(Send(fd.get(), from, bytes, at_), static_cast<int>(size + sizeof(udphdr)));
    const auto [received, sender] = Receive();
    EXPECT_EQ(sender, from);
    EXPECT_TRUE(received == bytes) << size << " bytes";
  }
}

TEST_P(RawReplierTest, RefusesWhatUdpCannotCarry) {
  const UniqueFd fd(OpenRawUdpReplier(At(GetParam().foreign, 0).addr, kNoMark));
  EXPECT_EQ(Send(fd.get(), At(GetParam().foreign, 53), std::string(65'528, 'x'), at_), -EMSGSIZE);
  EXPECT_EQ(Receive().first, "nothing");
}

// Not even when packets come all the time while it is made, but for the one that another CPU delivers at that
// very moment: it has no successor.
TEST_P(RawReplierTest, KeepsNothingThatIsSentToItsAddress) {
  const auto waiting = [](int fd) {
    int packets = 0;
    for (char packet[100]; recv(fd, packet, sizeof(packet), MSG_DONTWAIT) >= 0;) ++packets;
    EXPECT_EQ(errno, EAGAIN);
    return packets;
  };
  std::atomic<bool> stop = false;
  std::atomic<uint64_t> sent = 0;
  std::thread flood([this, &stop, &sent] {
    const UniqueFd from(OpenUdpUpstream(at_.addr.is_v4(), kNoMark));
    const iovec bytes{.iov_base = nullptr, .iov_len = 0};
    while (!stop) sent += SendUdp(from.get(), {&bytes, 1}, {.destination = at_}) == 0;
  });
  while (sent < 20'000) {
    const UniqueFd fd(OpenRawUdpReplier(at_.addr, kNoMark));
    const auto let_some_come = [&sent] {
      for (const uint64_t before = sent; sent < before + 10;) {
      }
    };
    let_some_come();
    EXPECT_LE(waiting(fd.get()), 1);
    let_some_come();
    EXPECT_EQ(waiting(fd.get()), 0);
  }
  stop = true;
  flood.join();
}

TEST_P(RawReplierTest, TellsOfErrorsOfItsOwnPortOnly) {
  const Endpoint closed = at_;
  receiver_.Reset();
  const UniqueFd fd(OpenRawUdpReplier(At(GetParam().loopback, 0).addr, kNoMark));
  for (uint16_t port : {53, 54, 53}) {
    const Endpoint source = At(GetParam().loopback, port);
    ASSERT_EQ(Send(fd.get(), source, "x", closed), 9);
    pollfd failed{.fd = fd.get(), .events = 0, .revents = 0};
    ASSERT_EQ(poll(&failed, 1, 10'000), 1);
    EXPECT_EQ(Send(fd.get(), source, "x", {}), -ECONNREFUSED) << "of the one before";
  }
  UdpError error;
  for (int i = 0; i < 2; ++i) {
    ASSERT_EQ(TakeRawUdpError(fd.get(), 53, error), 0);
    EXPECT_EQ(error.error, ECONNREFUSED);
    EXPECT_TRUE(error.from_network);
    EXPECT_EQ(error.destination, closed);
  }
  EXPECT_EQ(TakeRawUdpError(fd.get(), 53, error), -EAGAIN);
}

}  // namespace
}  // namespace tpx::sys
