// SPDX-License-Identifier: Apache-2.0
#include "support/wire.h"

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <string>

#include "support/check.h"
#include "support/prog_runner.h"

namespace tpx::test {
namespace {

constexpr const char* kSender = "tpxw0";
// struct virtio_net_hdr; the header that has it is not C++.
struct OffloadHeader {
  uint8_t flags;
  uint8_t gso_type;
  uint16_t hdr_len, gso_size, csum_start, csum_offset;
};
constexpr uint8_t kNeedsChecksum = 1, kGsoTcpV4 = 1, kGsoTcpV6 = 4, kGsoUdp = 5;
constexpr int kTcxIngress = 46;  // BPF_TCX_INGRESS, Linux 6.6; older headers lack the name

UniqueFd PacketSocket(const char* device) {
  UniqueFd fd(socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETH_P_ALL)));
  TPX_PCHECK(fd.get() >= 0);
  sockaddr_ll at{};
  at.sll_family = AF_PACKET;
  at.sll_protocol = htons(ETH_P_ALL);
  at.sll_ifindex = static_cast<int>(if_nametoindex(device));
  TPX_PCHECK(bind(fd.get(), reinterpret_cast<sockaddr*>(&at), sizeof(at)) == 0);
  return fd;
}

void SendBehind(int fd, const OffloadHeader& header, const Bytes& frame) {
  Bytes message(sizeof(header) + frame.size());
  std::memcpy(message.data(), &header, sizeof(header));
  std::memcpy(message.data() + sizeof(header), frame.data(), frame.size());
  TPX_PCHECK(send(fd, message.data(), message.size(), 0) == static_cast<ssize_t>(message.size()));
}

}  // namespace

UniqueFd AttachIngress(const char* device, int program_fd) {
  UniqueFd link(bpf_link_create(program_fd, static_cast<int>(if_nametoindex(device)),
                                static_cast<bpf_attach_type>(kTcxIngress), nullptr));
  TPX_PCHECK(link.get() >= 0) << device;
  return link;
}

UniqueFd AttachLookup(int program_fd) {
  UniqueFd netns(open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC));
  UniqueFd link(bpf_link_create(program_fd, netns.get(), BPF_SK_LOOKUP, nullptr));
  TPX_PCHECK(link.get() >= 0) << "sk_lookup";
  return link;
}

Wire::Wire() {
  const std::string sender = kSender, ingress = kIngress,
                    mac = " lladdr 02:00:00:00:00:02 nud permanent dev ";
  Shell("ip link add " + sender + " address 02:00:00:00:00:02 mtu 65535 type veth peer name " + ingress +
        " address 02:00:00:00:00:01 mtu 65535");
  Shell("ip link set " + sender + " up && ip link set " + ingress + " up");
  Shell("ip route add " + std::string(kHostV4) + " dev " + ingress);
  Shell("ip -6 route add " + std::string(kHostV6) + " dev " + ingress);
  Shell("ip neigh add " + std::string(kHostV4) + mac + ingress);
  Shell("ip -6 neigh add " + std::string(kHostV6) + mac + ingress);
  plain_ = PacketSocket(kSender);
  offload_ = PacketSocket(kSender);
  const int one = 1;
  TPX_PCHECK(setsockopt(offload_.get(), SOL_PACKET, PACKET_VNET_HDR, &one, sizeof(one)) == 0);
}

Wire::~Wire() { Shell(std::string("ip link del ") + kSender); }

void Wire::Send(const Bytes& frame) {
  TPX_PCHECK(send(plain_.get(), frame.data(), frame.size(), 0) == static_cast<ssize_t>(frame.size()));
}

void Wire::SendNonLinear(const Bytes& frame, uint16_t linear_bytes) {
  OffloadHeader header{};
  header.hdr_len = linear_bytes;
  SendBehind(offload_.get(), header, frame);
}

void Wire::SendSegments(const Bytes& frame, bool v4, uint16_t header_bytes, uint16_t segment_bytes) {
  OffloadHeader header{};
  header.flags = kNeedsChecksum;
  header.gso_type = v4 ? kGsoTcpV4 : kGsoTcpV6;
  header.hdr_len = header_bytes;
  header.gso_size = segment_bytes;
  header.csum_start = static_cast<uint16_t>(header_bytes - 20);
  header.csum_offset = 16;
  SendBehind(offload_.get(), header, frame);
}

void Wire::SendDatagrams(const Bytes& frame, uint16_t header_bytes, uint16_t segment_bytes) {
  OffloadHeader header{};
  header.flags = kNeedsChecksum;
  header.gso_type = segment_bytes == 0 ? 0 : kGsoUdp;
  header.hdr_len = header_bytes;
  header.gso_size = segment_bytes;
  header.csum_start = static_cast<uint16_t>(header_bytes - 8);
  header.csum_offset = 6;
  SendBehind(offload_.get(), header, frame);
}

std::optional<Bytes> Wire::Receive(const std::function<bool(const Bytes&)>& wanted) {
  Bytes frame(65536);
  pollfd ready{.fd = plain_.get(), .events = POLLIN, .revents = 0};
  while (poll(&ready, 1, 1000) == 1) {
    ssize_t length = recv(plain_.get(), frame.data(), frame.size(), 0);
    TPX_PCHECK(length >= 0);
    Bytes received(frame.begin(), frame.begin() + length);
    if (wanted(received)) return received;
  }
  return std::nullopt;
}

Tunnel::Tunnel() : fd_(open("/dev/net/tun", O_RDWR | O_CLOEXEC)) {
  TPX_PCHECK(fd_.get() >= 0) << "/dev/net/tun";
  ifreq request{};
  std::strncpy(request.ifr_name, kDevice, IFNAMSIZ - 1);
  request.ifr_flags = IFF_TUN | IFF_NO_PI;
  TPX_PCHECK(ioctl(fd_.get(), TUNSETIFF, &request) == 0);
  Shell(std::string("ip link set ") + kDevice + " up");
}

void Tunnel::Send(const Bytes& datagram) {
  TPX_PCHECK(write(fd_.get(), datagram.data(), datagram.size()) == static_cast<ssize_t>(datagram.size()));
}

std::optional<Bytes> Tunnel::Receive() {
  Bytes packet(65536);
  pollfd ready{.fd = fd_.get(), .events = POLLIN, .revents = 0};
  while (poll(&ready, 1, 1000) == 1) {
    ssize_t length = read(fd_.get(), packet.data(), packet.size());
    TPX_PCHECK(length >= 0);
    // Not the neighbour discovery and such of the device itself.
    const bool v4 = packet[0] >> 4 == 4;
    const uint8_t protocol = packet[v4 ? 9 : 6], type = packet[v4 ? 20 : 40];
    if (!(v4 ? protocol == 1 && type == 3 : protocol == 58 && type == 1)) continue;
    packet.resize(static_cast<size_t>(length));
    return packet;
  }
  return std::nullopt;
}

}  // namespace tpx::test
