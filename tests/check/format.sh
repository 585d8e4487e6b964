#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# C and C++ sources are formatted as .clang-format says.
set -euo pipefail
cd "$(dirname "$0")/../.."
# Versions differ in details; the one of Debian 12 is the reference.
version=$(clang-format --version | grep -oE '[0-9]+' | head -n 1)
if [ "$version" != 14 ]; then echo "skipped: clang-format is $version, the reference is 14"; exit 77; fi
find src include bpf tests bench maps \( -name '*.h' -o -name '*.cc' -o -name '*.c' \) -print0 |
  xargs -0 clang-format --dry-run -Werror
echo "formatted"
