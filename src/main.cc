// SPDX-License-Identifier: Apache-2.0
#include <iostream>

#include "cli/command.h"

int main(int argc, char** argv) {
  tpx::cli::Env env{.out = std::cout, .err = std::cerr};
  return tpx::cli::Dispatch(argc, argv, env);
}
