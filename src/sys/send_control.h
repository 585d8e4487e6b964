// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <cstring>

#include "tpx/sys/udp_socket.h"

namespace tpx::sys {

// Control messages of one send call.
class SendControl {
 public:
  template <typename T>
  void Add(int level, int type, T value) {
    auto* message = reinterpret_cast<cmsghdr*>(buffer_ + size_);
    message->cmsg_level = level;
    message->cmsg_type = type;
    message->cmsg_len = CMSG_LEN(sizeof(value));
    memcpy(CMSG_DATA(message), &value, sizeof(value));
    size_ += CMSG_SPACE(sizeof(value));
  }
  void AddTrafficClass(const UdpDeparture& d) {
    const bool v4 = d.destination.addr.is_v4();
    const int level = v4 ? SOL_IP : SOL_IPV6;
    if (d.traffic_class != 0) Add(level, v4 ? IP_TOS : IPV6_TCLASS, static_cast<int>(d.traffic_class));
    if (d.hops != 0) Add(level, v4 ? IP_TTL : IPV6_HOPLIMIT, static_cast<int>(d.hops));
  }
  // It must outlive the message.
  void PutInto(msghdr& message) {
    message.msg_control = size_ == 0 ? nullptr : buffer_;
    message.msg_controllen = size_;
  }

 private:
  alignas(cmsghdr) char buffer_[kUdpControlSize] = {};
  size_t size_ = 0;
};

}  // namespace tpx::sys
