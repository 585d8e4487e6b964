// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bpf/libbpf.h>
#include <xdp/libxdp.h>

#include <string>

namespace tpx::bpf {

// While it exists, what libbpf and libxdp would print on this thread is kept
// instead. They have one print function per process, without a context argument; hence
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
  libxdp_print_fn_t previous_of_libxdp_;
};

}  // namespace tpx::bpf
