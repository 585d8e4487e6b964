// SPDX-License-Identifier: Apache-2.0
// Makes, answers and counts datagrams for udp_bench.py. Every run is bounded in time and count and answers
// with one line of JSON; SIGTERM ends it early, with the line.
//   sink   counts what arrives (UDP_GRO, so that it costs little beside what is measured); --answer N: sends
//   a
//          small datagram back for each N
//   echo   sends everything back
//   blast  one way, from --sockets flows in turn, as fast as it goes or at --rate; --train N: trains of N
//   segments rr     --sockets requests outstanding, each from a socket of its own that asks again when
//   answered churn  the same, but each request comes from a new socket and a source port not used before
#include <netinet/in.h>
#include <netinet/udp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "tpx/base/address.h"
#include "tpx/base/unique_fd.h"

namespace tpx {
namespace {

using nlohmann::json;

constexpr uint64_t kSecond = 1'000'000'000;
constexpr uint64_t kTick = kSecond / 10;
constexpr uint64_t kAnswerTimeout = kSecond;
constexpr int kSocketBuffer = 32 << 20;
constexpr uint64_t kMagic = 0x7470782d75647031;
constexpr size_t kLargest = 65'507;
constexpr uint16_t kLastPort = 65'000;  // of churn

struct Options {
  std::string mode, address;
  uint16_t port = 0;
  uint64_t seconds = 5, size = 100, sockets = 1, train = 1, count = 10'000'000, rate = 0, answer = 0;
  uint64_t first_port = 1024;
};

struct Head {  // what every datagram begins with
  uint64_t magic, number;
};

volatile sig_atomic_t stopped = 0;

[[noreturn]] void Die(const char* what) {
  perror(what);
  std::exit(1);
}

uint64_t Now(clockid_t clock = CLOCK_MONOTONIC) {
  timespec t{};
  clock_gettime(clock, &t);
  return t.tv_sec * kSecond + t.tv_nsec;
}

double Seconds(uint64_t ns) { return static_cast<double>(ns) / kSecond; }

bool Over(uint64_t deadline) { return stopped != 0 || Now() >= deadline; }

void Set(const UniqueFd& fd, int level, int option, int value) {
  if (setsockopt(fd.get(), level, option, &value, sizeof(value)) != 0) Die("setsockopt");
}

// A socket, after bind(2) or connect(2) to the address of the options.
UniqueFd Open(const Options& options, decltype(&connect) attach, uint16_t source_port = 0) {
  auto address = IpAddr::Parse(options.address);
  if (!address.ok()) Die(options.address.c_str());
  sockaddr_storage to{};
  const socklen_t length = Endpoint{.addr = *address, .port = options.port}.ToNativeSockaddr(to);
  UniqueFd fd(socket(to.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!fd) Die("socket");
  if (source_port != 0) {
    sockaddr_in6 any{};  // of IPv4 too: family and port are in the same places, and the wildcards are zero
    any.sin6_family = to.ss_family;
    any.sin6_port = htons(source_port);
    if (bind(fd.get(), reinterpret_cast<sockaddr*>(&any), length) != 0) Die("bind");
  }
  if (attach(fd.get(), reinterpret_cast<sockaddr*>(&to), length) != 0) Die("bind or connect");
  return fd;
}

class Receiver {
 public:
  // A sink asks for GRO and for the heads of what it gets; lengths are known without copying the rest
  // (MSG_TRUNC).
  Receiver(const Options& options, bool sink)
      : fd_(Open(options, bind)),
        room_(sink ? sizeof(Head) : kLargest),
        answer_(options.answer),
        buffers_(kBatch * room_) {
    const timeval tick{.tv_sec = 0, .tv_usec = kTick / 1000};
    setsockopt(fd_.get(), SOL_SOCKET, SO_RCVTIMEO, &tick, sizeof(tick));
    Set(fd_, SOL_SOCKET, SO_RCVBUFFORCE, kSocketBuffer);
    if (sink) Set(fd_, IPPROTO_UDP, UDP_GRO, 1);
  }

  json Run(uint64_t deadline, bool echo) {
    while (!Over(deadline)) {
      const size_t messages = Receive();
      for (size_t i = 0; i < messages; ++i) Count(i);
      if (echo) SendBack(messages);
    }
    return {{"datagrams", datagrams_}, {"bytes", bytes_}, {"bad", bad_}, {"peers", peers_}};
  }

 private:
  static constexpr size_t kBatch = 32;

  size_t Receive() {
    for (size_t i = 0; i < kBatch; ++i) {
      iov_[i] = {.iov_base = &buffers_[i * room_], .iov_len = room_};
      messages_[i].msg_hdr = {&names_[i],  sizeof(names_[i]),   &iov_[i], 1,
                              control_[i], sizeof(control_[i]), 0};
    }
    const int got = recvmmsg(fd_.get(), messages_.data(), kBatch, MSG_WAITFORONE | MSG_TRUNC, nullptr);
    if (got < 0 && errno != EAGAIN && errno != EINTR) Die("recvmmsg");
    return std::max(got, 0);
  }

  // A message is several datagrams when GRO has joined them; the first one's head speaks for all.
  void Count(size_t i) {
    const IpAddr from = Endpoint::FromSockaddr(reinterpret_cast<const sockaddr&>(names_[i])).addr;
    if (from != last_) peers_.insert((last_ = from).ToString());
    const size_t bytes = messages_[i].msg_len;
    int segment = 0;
    for (cmsghdr* c = CMSG_FIRSTHDR(&messages_[i].msg_hdr); c; c = CMSG_NXTHDR(&messages_[i].msg_hdr, c))
      if (c->cmsg_level == IPPROTO_UDP && c->cmsg_type == UDP_GRO)
        memcpy(&segment, CMSG_DATA(c), sizeof(segment));
    Head head{};
    if (bytes >= sizeof(head)) memcpy(&head, iov_[i].iov_base, sizeof(head));
    (head.magic == kMagic ? datagrams_ : bad_) += segment > 0 ? (bytes + segment - 1) / segment : 1;
    bytes_ += bytes;
    if (answer_ != 0 && datagrams_ - answered_ >= answer_) Answer(names_[i]);
  }

  void Answer(const sockaddr_storage& to) {
    const Head head{.magic = kMagic, .number = answered_ = datagrams_};
    // One that is lost is followed by another.
    sendto(fd_.get(), &head, sizeof(head), MSG_DONTWAIT, reinterpret_cast<const sockaddr*>(&to),
           to.ss_family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6));
  }

  void SendBack(size_t messages) {
    for (size_t i = 0; i < messages; ++i) {
      iov_[i].iov_len = messages_[i].msg_len;
      messages_[i].msg_hdr.msg_controllen = 0;
    }
    for (size_t done = 0; done < messages;) {
      const int sent = sendmmsg(fd_.get(), &messages_[done], messages - done, 0);
      done += std::max(sent, 1);  // one that cannot be sent is lost, and the asker counts it
    }
  }

  UniqueFd fd_;
  const size_t room_;
  const uint64_t answer_;
  std::vector<char> buffers_;
  std::array<mmsghdr, kBatch> messages_{};
  std::array<iovec, kBatch> iov_{};
  std::array<sockaddr_storage, kBatch> names_{};
  alignas(cmsghdr) char control_[kBatch][CMSG_SPACE(sizeof(int))]{};
  IpAddr last_;
  std::set<std::string> peers_;
  uint64_t datagrams_ = 0, bytes_ = 0, bad_ = 0, answered_ = 0;
};

json Blast(const Options& options, uint64_t deadline) {
  std::vector<UniqueFd> sockets(options.sockets);
  for (UniqueFd& fd : sockets) {
    fd = Open(options, connect);
    if (options.train > 1) Set(fd, IPPROTO_UDP, UDP_SEGMENT, options.size);
  }
  std::vector<char> train(options.size * options.train);
  uint64_t sent = 0, failed = 0, turn = 0;
  const uint64_t start = Now();
  while (sent + failed < options.count && !Over(deadline)) {
    if (options.rate != 0 && Seconds(Now() - start) * options.rate < sent + failed) {
      const timespec nap{.tv_sec = 0, .tv_nsec = 50'000};
      nanosleep(&nap, nullptr);
      continue;
    }
    for (uint64_t i = 0; i < options.train; ++i) {
      const Head head{.magic = kMagic, .number = sent + i};
      memcpy(&train[i * options.size], &head, sizeof(head));
    }
    const int fd = sockets[turn++ % options.sockets].get();
    (send(fd, train.data(), train.size(), 0) >= 0 ? sent : failed) += options.train;
  }
  return {{"sent", sent}, {"failed", failed}, {"seconds", Seconds(Now() - start)}};
}

// Closed loop: every slot has one request under way.
class Exchange {
 public:
  Exchange(const Options& options, bool renew)
      : options_(options), renew_(renew), epoll_(epoll_create1(EPOLL_CLOEXEC)), slots_(options.sockets) {
    if (!epoll_) Die("epoll_create1");
  }

  json Run(uint64_t deadline) {
    const uint64_t start = Now();
    for (uint32_t i = 0; i < slots_.size(); ++i) Ask(i, true);
    for (uint64_t swept = start; !Over(deadline) && waits_.size() + lost_ < options_.count;) {
      epoll_event events[64];
      const int ready = epoll_wait(epoll_.get(), events, 64, kTick / 1'000'000);
      for (int i = 0; i < ready; ++i) TakeAnswer(events[i].data.u32);
      const uint64_t now = Now();
      if (now - swept < kTick) continue;
      swept = now;
      for (uint32_t i = 0; i < slots_.size(); ++i)
        if (now - slots_[i].asked > kAnswerTimeout) ++lost_, Ask(i, renew_);
    }
    const double seconds = Seconds(Now() - start);
    std::sort(waits_.begin(), waits_.end());
    return {{"answered", waits_.size()}, {"lost", lost_},
            {"strange", strange_},       {"seconds", seconds},
            {"p50_us", Percentile(50)},  {"p99_us", Percentile(99)}};
  }

 private:
  struct Slot {
    UniqueFd fd;
    uint64_t number = 0, asked = 0;
  };

  void Ask(uint32_t i, bool from_new_socket) {
    Slot& slot = slots_[i];
    if (from_new_socket) {
      slot.fd = Open(options_, connect, renew_ ? options_.first_port + opened_++ : 0);
      epoll_event event{.events = EPOLLIN, .data = {.u32 = i}};
      if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, slot.fd.get(), &event) != 0) Die("epoll_ctl");
    }
    const Head head{.magic = kMagic, .number = slot.number = ++asked_};
    memcpy(buffer_, &head, sizeof(head));
    slot.asked = Now();
    send(slot.fd.get(), buffer_, options_.size, 0);  // one that fails has no answer, and is lost
  }

  void TakeAnswer(uint32_t i) {
    Slot& slot = slots_[i];
    const ssize_t got = recv(slot.fd.get(), buffer_, sizeof(buffer_), MSG_DONTWAIT);
    if (got < 0) return;  // an ICMP error: the request runs into its time-out
    Head head{};
    memcpy(&head, buffer_, sizeof(head));
    if (head.magic != kMagic || head.number != slot.number || static_cast<uint64_t>(got) != options_.size) {
      ++strange_;  // late, or not ours
      return;
    }
    waits_.push_back(Now() - slot.asked);
    Ask(i, renew_);
  }

  double Percentile(size_t percent) const {
    return waits_.empty() ? 0 : waits_[(waits_.size() - 1) * percent / 100] / 1e3;
  }

  const Options options_;
  const bool renew_;
  UniqueFd epoll_;
  std::vector<Slot> slots_;
  std::vector<uint64_t> waits_;
  char buffer_[kLargest]{};
  uint64_t lost_ = 0, strange_ = 0, asked_ = 0;
  uint16_t opened_ = 0;
};

json Run(Options options) {
  const uint64_t deadline = Now() + options.seconds * kSecond;
  const bool sink = options.mode == "sink", renew = options.mode == "churn";
  if (sink || options.mode == "echo") return Receiver(options, sink).Run(deadline, !sink);
  if (options.mode == "blast") return Blast(options, deadline);
  if (renew) options.count = std::min(options.count, kLastPort - options.first_port - options.sockets);
  return Exchange(options, renew).Run(deadline);
}

}  // namespace
}  // namespace tpx

int main(int argc, char** argv) {
  tpx::Options options;
  CLI::App app{"UDP load for udp_bench.py; what the modes do is said at the top of udp_load.cc"};
  app.add_option("mode", options.mode)
      ->required()
      ->check(CLI::IsMember({"sink", "echo", "blast", "rr", "churn"}));
  app.add_option("address", options.address, "of the other side; of sink and echo: to listen at")->required();
  app.add_option("port", options.port)->required();
  app.add_option("--seconds", options.seconds)->check(CLI::Range(1, 600));
  app.add_option("--count", options.count, "datagrams or exchanges")->check(CLI::Range(1, 100'000'000));
  app.add_option("--size", options.size, "bytes")->check(CLI::Range(16, 1500));
  app.add_option("--sockets", options.sockets)->check(CLI::Range(1, 4096));
  app.add_option("--train", options.train, "segments")->check(CLI::Range(1, 43));
  app.add_option("--rate", options.rate, "datagrams per second")->check(CLI::Range(0, 10'000'000));
  app.add_option("--first-port", options.first_port, "of churn")->check(CLI::Range(1024, 60'000));
  app.add_option("--answer", options.answer, "datagrams; 0: none")->check(CLI::Range(0, 1'000'000));
  CLI11_PARSE(app, argc, argv);
  struct sigaction action {};
  action.sa_handler = [](int) { tpx::stopped = 1; };
  sigaction(SIGTERM, &action, nullptr);
  const uint64_t spent = tpx::Now(CLOCK_PROCESS_CPUTIME_ID);
  auto answer = tpx::Run(options);
  answer["cpu_s"] = tpx::Seconds(tpx::Now(CLOCK_PROCESS_CPUTIME_ID) - spent);
  std::cout << answer.dump() << std::endl;
}
