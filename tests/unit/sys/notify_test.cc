// SPDX-License-Identifier: Apache-2.0
#include "tpx/sys/notify.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <string>

#include "tpx/base/unique_fd.h"

namespace tpx::sys {
namespace {

TEST(NotifyServiceManager, DoesNothingWithoutASocket) {
  unsetenv("NOTIFY_SOCKET");
  EXPECT_TRUE(NotifyServiceManager("READY=1").ok());
}

TEST(NotifyServiceManager, SendsTheStateToAnAbstractSocket) {
  const std::string name = "@tpx-notify-" + std::to_string(getpid());
  UniqueFd fd(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  memcpy(address.sun_path + 1, name.data() + 1, name.size() - 1);
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size());
  ASSERT_EQ(bind(fd.get(), reinterpret_cast<sockaddr*>(&address), size), 0);
  setenv("NOTIFY_SOCKET", name.c_str(), 1);
  ASSERT_TRUE(NotifyServiceManager("READY=1").ok());
  char buffer[32] = {};
  EXPECT_EQ(recv(fd.get(), buffer, sizeof(buffer), MSG_DONTWAIT), 7);
  EXPECT_STREQ(buffer, "READY=1");
  unsetenv("NOTIFY_SOCKET");
}

TEST(NotifyServiceManager, BadSocketIsAnError) {
  for (const char* path : {"relative", "/nonexistent/socket"}) {
    setenv("NOTIFY_SOCKET", path, 1);
    EXPECT_FALSE(NotifyServiceManager("READY=1").ok());
  }
  unsetenv("NOTIFY_SOCKET");
}

}  // namespace
}  // namespace tpx::sys
