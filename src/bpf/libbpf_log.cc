// SPDX-License-Identifier: Apache-2.0
#include "libbpf_log.h"

#include <cstdarg>
#include <cstdio>
#include <vector>

namespace tpx::bpf {
namespace {

constexpr size_t kMaxBytes = 32 << 20;  // more than the largest verifier log libbpf asks for

thread_local std::string* target = nullptr;

int Keep(bool asked, const char* format, va_list args) {
  if (target == nullptr || !asked || target->size() > kMaxBytes) return 0;
  va_list again;
  va_copy(again, args);
  const int length = vsnprintf(nullptr, 0, format, args);
  if (length > 0) {
    std::vector<char> line(static_cast<size_t>(length) + 1);
    vsnprintf(line.data(), line.size(), format, again);
    target->append(line.data(), static_cast<size_t>(length));
  }
  va_end(again);
  return length;
}

int KeepOfLibbpf(libbpf_print_level level, const char* format, va_list args) {
  return Keep(level != LIBBPF_DEBUG, format, args);
}

int KeepOfLibxdp(libxdp_print_level level, const char* format, va_list args) {
  return Keep(level != LIBXDP_DEBUG, format, args);
}

}  // namespace

LibbpfLog::LibbpfLog() {
  target = &text_;
  previous_ = libbpf_set_print(KeepOfLibbpf);
  previous_of_libxdp_ = libxdp_set_print(KeepOfLibxdp);
}

LibbpfLog::~LibbpfLog() {
  libbpf_set_print(previous_);
  libxdp_set_print(previous_of_libxdp_);
  target = nullptr;
}

}  // namespace tpx::bpf
