// SPDX-License-Identifier: Apache-2.0
#include "unit/data/gateway_lab.h"

#include <fcntl.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "tpx/sys/socket.h"

namespace tpx::data {
namespace {

constexpr size_t kBuffer = 256 << 10;

uint8_t PatternByte(size_t offset) {
  return static_cast<uint8_t>((offset >> 3) * 0x9e3779b97f4a7c15ULL >> (56 - 8 * (offset & 7) % 56));
}

const char kLinks[] = R"(
  ip link add gwc type veth peer name end netns CLIENT
  ip link add gws type veth peer name end netns SERVER
  sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0 net.ipv4.conf.gwc.rp_filter=0 \
    net.ipv4.conf.gws.rp_filter=0
  ip link set lo up; ip link set gwc up; ip link set gws up
  ip addr add 192.0.2.1/24 dev gwc; ip addr add 2001:db8:1::1/64 dev gwc nodad
  ip addr add 198.51.100.1/24 dev gws noprefixroute; ip addr add 2001:db8:2::1/64 dev gws nodad noprefixroute
  for f in -4 -6; do
    ip $f rule add iif gwc priority 100 lookup 100; ip $f rule add iif gws priority 101 lookup 100
    ip $f route add local default dev lo table 100
    ip $f rule add fwmark 0x40000000 priority 102 lookup 200
  done
  ip route add 198.51.100.0/26 dev gws src 198.51.100.1 table 200
  ip route add 198.51.100.64/26 via 198.51.100.7 dev gws onlink table 200
  ip route add unreachable 198.51.100.128/25 table 200
  ip route add 192.0.2.0/24 dev gwc table 200
  ip -6 route add 2001:db8:2::/64 dev gws src 2001:db8:2::1 table 200
  ip -6 route add 2001:db8:2:1::/64 via 2001:db8:2::7 dev gws onlink table 200
  ip -6 route add unreachable 2001:db8:2:2::/64 table 200
  ip -6 route add 2001:db8:1::/64 dev gwc table 200
)";

const char kEnd[] = R"(
  sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.tcp_syncookies=1
  ip link set lo up; ip link set end up
  ip addr add V4/24 dev end; ip addr add V6/64 dev end nodad
  ip route add default via GW4; ip -6 route add default via GW6
)";

std::string Replace(std::string text,
                    std::initializer_list<std::pair<const char*, std::string>> replacements) {
  for (const auto& [from, to] : replacements) {
    for (size_t at = text.find(from); at != text.npos; at = text.find(from, at + to.size())) {
      text.replace(at, strlen(from), to);
    }
  }
  return text;
}

void LimitCalls(int fd) {
  const timeval limit{.tv_sec = 20, .tv_usec = 0};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
}

}  // namespace

const Family kFamilies[2] = {
    {"V4", "192.0.2.10", "198.51.100.1", "198.51.100.7", "198.51.100.8", "198.51.100.66", "198.51.100.130"},
    {"V6", "2001:db8:1::10", "2001:db8:2::1", "2001:db8:2::7", "2001:db8:2::8", "2001:db8:2:1::66",
     "2001:db8:2:2::1"},
};

std::string FamilyName(const testing::TestParamInfo<Family>& info) { return info.param.name; }

NetNs::NetNs() {
  std::thread([this] {
    if (unshare(CLONE_NEWNET) == 0) fd_ = UniqueFd(open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
  }).join();
}

void NetNs::Do(const std::function<void()>& work) const {
  std::thread([&] {
    ASSERT_EQ(setns(fd_.get(), CLONE_NEWNET), 0) << strerror(errno);
    work();
  }).join();
}

void NetNs::Sh(const std::string& commands) const {
  Do([&] { ASSERT_EQ(std::system(absl::StrCat("set -e\n", commands).c_str()), 0) << commands; });
}

std::string NetNs::path() const { return absl::StrCat("/proc/", getpid(), "/fd/", fd_.get()); }

bool GatewayLab::Permitted() {
  bool permitted = false;
  std::thread([&] { permitted = unshare(CLONE_NEWNET) == 0; }).join();
  return permitted;
}

GatewayLab::GatewayLab() {
  gateway.Sh(Replace(kLinks, {{"CLIENT", client.path()}, {"SERVER", server.path()}}));
  client.Sh(Replace(
      kEnd,
      {{"GW4", "192.0.2.1"}, {"GW6", "2001:db8:1::1"}, {"V4", "192.0.2.10"}, {"V6", "2001:db8:1::10"}}));
  server.Sh(Replace(
      kEnd,
      {{"GW4", "198.51.100.1"}, {"GW6", "2001:db8:2::1"}, {"V4", "198.51.100.7"}, {"V6", "2001:db8:2::7"}}));
  server.Sh("ip addr add 198.51.100.8/24 dev end; ip addr add 2001:db8:2::8/64 dev end nodad");
}

UniqueFd OpenSocket(const NetNs& ns, const Endpoint& like) {
  sockaddr_storage address{};
  like.ToNativeSockaddr(address);
  UniqueFd fd;
  ns.Do([&] { fd = UniqueFd(socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0)); });
  LimitCalls(fd.get());
  return fd;
}

UniqueFd ListenAt(const NetNs& ns, const Endpoint& at) {
  UniqueFd fd = OpenSocket(ns, at);
  const int one = 1;
  setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
  setsockopt(fd.get(), IPPROTO_TCP, 27 /* TCP_SAVE_SYN */, &one, sizeof(one));
  sockaddr_storage address{};
  const socklen_t length = at.ToNativeSockaddr(address);
  EXPECT_EQ(bind(fd.get(), reinterpret_cast<sockaddr*>(&address), length), 0) << strerror(errno);
  EXPECT_EQ(listen(fd.get(), 4096), 0);
  return fd;
}

bool Connect(const UniqueFd& fd, const Endpoint& to) {
  sockaddr_storage address{};
  const socklen_t length = to.ToNativeSockaddr(address);
  return connect(fd.get(), reinterpret_cast<sockaddr*>(&address), length) == 0;
}

UniqueFd ConnectTo(const NetNs& ns, const Endpoint& to, int hops) {
  UniqueFd fd = OpenSocket(ns, to);
  if (hops != 0) {
    EXPECT_EQ(sys::SetHopLimit(fd.get(), to, hops), 0);
  }
  return Connect(fd, to) ? std::move(fd) : UniqueFd();
}

UniqueFd Accept(const UniqueFd& listener, Endpoint* peer) {
  sockaddr_storage address{};
  socklen_t length = sizeof(address);
  UniqueFd fd(accept4(listener.get(), reinterpret_cast<sockaddr*>(&address), &length, SOCK_CLOEXEC));
  if (fd && peer != nullptr) *peer = Endpoint::FromSockaddr(reinterpret_cast<const sockaddr&>(address));
  if (fd) LimitCalls(fd.get());
  return fd;
}

bool SendPattern(int fd, size_t length, size_t offset) {
  std::vector<uint8_t> buffer(std::min(length, kBuffer));
  for (const size_t end = offset + length; offset < end;) {
    const size_t n = std::min(buffer.size(), end - offset);
    for (size_t i = 0; i < n; ++i) buffer[i] = PatternByte(offset + i);
    for (size_t sent = 0; sent < n;) {
      const ssize_t r = send(fd, buffer.data() + sent, n - sent, MSG_NOSIGNAL);
      if (r <= 0) return false;
      sent += static_cast<size_t>(r);
    }
    offset += n;
  }
  return true;
}

bool ReadPattern(int fd, size_t length, size_t offset) {
  std::vector<uint8_t> buffer(kBuffer);
  for (const size_t end = offset + length; offset < end;) {
    const ssize_t n = recv(fd, buffer.data(), std::min(buffer.size(), end - offset), 0);
    if (n <= 0) return false;
    for (ssize_t i = 0; i < n; ++i, ++offset) {
      if (buffer[static_cast<size_t>(i)] != PatternByte(offset)) return false;
    }
  }
  return true;
}

int ReadToEnd(int fd, size_t* total) {
  std::vector<uint8_t> buffer(kBuffer);
  for (;;) {
    const ssize_t n = recv(fd, buffer.data(), buffer.size(), 0);
    if (n < 0) return -errno;
    if (n == 0) return 0;
    for (ssize_t i = 0; i < n; ++i, ++*total) {
      if (buffer[static_cast<size_t>(i)] != PatternByte(*total)) return -EBADMSG;
    }
  }
}

int End(const UniqueFd& fd) {
  size_t total = 0;
  return ReadToEnd(fd.get(), &total);
}

void ResetOnClose(int fd) {
  const linger reset{.l_onoff = 1, .l_linger = 0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
}

size_t Scaled(size_t bytes) {
  double scale = 1;
  if (const char* text = getenv("TPX_TEST_SCALE"); text == nullptr || !absl::SimpleAtod(text, &scale))
    scale = 1;
  return static_cast<size_t>(static_cast<double>(bytes) * std::min(scale, 1.0));
}

std::unique_ptr<GatewayLab> WorkerTest::lab_;

void WorkerTest::SetUpTestSuite() {
  if (GatewayLab::Permitted()) lab_ = std::make_unique<GatewayLab>();
}

void WorkerTest::TearDownTestSuite() { lab_.reset(); }

void WorkerTest::SetUp() {
  if (!lab_) {
    if (getenv("TPX_REQUIRE_PRIV") != nullptr) FAIL() << "needs the privilege to make network namespaces";
    GTEST_SKIP() << "needs the privilege to make network namespaces";
  }
  StartWorker();
}

void WorkerTest::StartWorker() {
  finished_ = false;
  lab_->gateway.Do([this] {
    auto worker = Worker::Create(options_);
    ASSERT_TRUE(worker.ok()) << worker.status();
    worker_ = *std::move(worker);
  });
  ASSERT_NE(worker_, nullptr);
  Select(TPX_LISTENER_TCP_MASQUERADE);
  listener_ = ListenAt(lab_->server, Server());
  thread_ = std::thread([this] {
    lab_->gateway.Do([this] {
      worker_thread_ = pthread_self();
      EXPECT_TRUE(worker_->Begin().ok());
      worker_->Run();
      finished_ = true;
    });
  });
  ASSERT_TRUE(Eventually([this] { return State() == TPX_WORKER_SERVING; }));
}

void WorkerTest::Restart() {
  StopWorker();
  StartWorker();
}

void WorkerTest::StopWorker() {
  if (worker_) worker_->Stop();
  if (thread_.joinable()) thread_.join();
  worker_.reset();
}

void WorkerTest::TearDown() {
  StopWorker();
  uint64_t ended = 0;
  for (int c = TPX_C_CONNECT_REFUSED; c <= TPX_C_CLOSED_DRAIN; ++c)
    ended += Count(static_cast<tpx_worker_counter>(c));
  EXPECT_EQ(Count(TPX_C_SESSIONS), 0u);
  EXPECT_EQ(Count(TPX_C_STALE_COMPLETIONS), 0u);
  EXPECT_GE(ended, Count(TPX_C_SESSIONS_TOTAL)) << "each session ends for one reason";
}

void WorkerTest::Select(tpx_listener listener) {
  sock_filter code[] = {BPF_STMT(BPF_RET | BPF_K, static_cast<uint32_t>(listener))};
  const sock_fprog program{.len = 1, .filter = code};
  ASSERT_EQ(setsockopt(worker_->listener_fd(TPX_LISTENER_TCP_MASQUERADE), SOL_SOCKET,
                       SO_ATTACH_REUSEPORT_CBPF, &program, sizeof(program)),
            0);
}

uint64_t WorkerTest::Count(tpx_worker_counter counter) {
  return std::atomic_ref<__u64>(slot_.counter[counter]).load(std::memory_order_relaxed);
}

uint32_t WorkerTest::State() { return std::atomic_ref<__u32>(slot_.state).load(std::memory_order_relaxed); }

bool WorkerTest::Eventually(const std::function<bool()>& condition) {
  for (int i = 0; i < 6000; ++i) {  // half a minute: a sanitized test is slow beside others
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return condition();
}

bool WorkerTest::CountBecomes(tpx_worker_counter counter, uint64_t value) {
  return Eventually([&] { return Count(counter) == value; });
}

Endpoint WorkerTest::At(const char* address) const {
  return {.addr = IpAddr::Parse(address).value(), .port = worker_->listen_port()};
}

WorkerTest::Pair WorkerTest::Open() {
  Pair pair;
  pair.client = ConnectTo(lab_->client, Server());
  EXPECT_TRUE(pair.client) << strerror(errno);
  pair.server = Accept(listener_);
  EXPECT_TRUE(pair.server) << strerror(errno);
  return pair;
}

}  // namespace tpx::data
