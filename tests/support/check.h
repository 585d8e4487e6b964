// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <sstream>

// For the machinery of tests: what must hold before a test can say anything.
// Aborts with the place, the condition and what is streamed in.
namespace tpx::test {

class Fatal {
 public:
  Fatal(const char* file, int line, const char* condition, int error) {
    text_ << file << ":" << line << ": " << condition;
    if (error != 0) text_ << ": " << std::strerror(error);
    text_ << " ";
  }
  [[noreturn]] ~Fatal() {
    std::cerr << text_.str() << std::endl;
    std::abort();
  }
  std::ostream& stream() { return text_; }

 private:
  std::ostringstream text_;
};

}  // namespace tpx::test

#define TPX_CHECK(condition) \
  if (condition) {           \
  } else                     \
    ::tpx::test::Fatal(__FILE__, __LINE__, #condition, 0).stream()

// The same for calls that set errno.
#define TPX_PCHECK(condition) \
  if (condition) {            \
  } else                      \
    ::tpx::test::Fatal(__FILE__, __LINE__, #condition, errno).stream()
