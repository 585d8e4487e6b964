#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# clang-tidy with .clang-tidy over the library and program sources.
set -euo pipefail
cd "$(dirname "$0")/../.."
version=$(clang-tidy --version | grep -oE 'version [0-9]+' | grep -oE '[0-9]+' | head -n 1)
if [ "$version" != 14 ]; then echo "skipped: clang-tidy is $version, the reference is 14"; exit 77; fi
# The analyzer looks at each function by itself: following calls doubles the time of all checks together.
shallow=(--extra-arg=-Xclang --extra-arg=-analyzer-config --extra-arg=-Xclang --extra-arg=mode=shallow)
# At the end of the queue: tests that run beside it wait for answers.
find src -name '*.cc' -print0 | nice -n 19 xargs -0 -n 4 -P "$(nproc)" clang-tidy --quiet -p "$TPX_BUILD" "${shallow[@]}"
echo "tidy"
