// SPDX-License-Identifier: Apache-2.0
#include <netinet/in.h>

#include <cstring>
#include <vector>

#include "tpx/sys/udp_socket.h"

// Control messages of any content and length are read within their bounds: the
// copy is exactly as long as it says, so the sanitizer sees a step beyond.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const size_t name_len = std::min<size_t>(data[0] % 33, size - 1);
  sockaddr_storage name{};
  memcpy(&name, data + 1, name_len);
  std::vector<long> control((size - 1 - name_len + sizeof(long) - 1) / sizeof(long) + 1);  // aligned
  const size_t control_len = size - 1 - name_len;
  auto* bytes = reinterpret_cast<char*>(control.data()) + control.size() * sizeof(long) -
                (control_len + sizeof(long) - 1) / sizeof(long) * sizeof(long);
  memcpy(bytes, data + 1 + name_len, control_len);
  msghdr message{};
  message.msg_name = &name;
  message.msg_namelen = static_cast<socklen_t>(name_len);
  message.msg_control = bytes;
  message.msg_controllen = control_len;
  (void)tpx::sys::ParseUdpArrival(message);
  (void)tpx::sys::ParseUdpError(message);
  return 0;
}
