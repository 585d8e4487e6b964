// SPDX-License-Identifier: Apache-2.0
#include "signals.h"

#include <sys/signalfd.h>

#include <cerrno>
#include <csignal>

#include "tpx/base/status.h"

namespace tpx::app {

absl::StatusOr<UniqueFd> TakeOverSignals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  if (int err = pthread_sigmask(SIG_BLOCK, &set, nullptr); err != 0)
    return ErrnoStatus(err, "pthread_sigmask");
  signal(SIGPIPE, SIG_IGN);
  signal(SIGHUP, SIG_IGN);
  UniqueFd fd(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd) return ErrnoStatus(errno, "signalfd");
  return fd;
}

int DrainSignals(int fd) {
  int count = 0;
  signalfd_siginfo info;
  while (read(fd, &info, sizeof(info)) == sizeof(info)) count++;
  return count;
}

}  // namespace tpx::app
