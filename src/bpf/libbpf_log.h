// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bpf/libbpf.h>

#include <string>

namespace tpx::bpf {

// While it exists, what libbpf would print on this thread is kept instead.
// libbpf has one print function per process, without a context argument; hence
// the thread-local target inside. Not nested on one thread.
class LibbpfLog {
 public:
  LibbpfLog();
  LibbpfLog(const LibbpfLog&) = delete;
  LibbpfLog& operator=(const LibbpfLog&) = delete;
  ~LibbpfLog();
  const std::string& text() const { return text_; }

 private:
  std::string text_;
  libbpf_print_fn_t previous_;
};

}  // namespace tpx::bpf
