#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every public header compiles alone."""
import concurrent.futures
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


def compile_alone(header):
    command = ["g++", "-std=c++20", "-fsyntax-only", "-Wall", "-Werror", f"-I{ROOT}/include", f"-I{ROOT}/maps",
               "-x", "c++", "-"]
    result = subprocess.run(command, input=f'#include "{header}"\n', capture_output=True, text=True, check=False)
    return header, result.returncode, result.stderr


def main():
    headers = sorted((ROOT / "include").rglob("*.h")) + [ROOT / "maps/tpx_abi.h"]
    faults = 0
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for header, status, output in pool.map(compile_alone, headers):
            if status != 0:
                faults += 1
                print(f"{header.relative_to(ROOT)} does not compile alone:\n{output[:2000]}")
    print(f"{len(headers) - faults} of {len(headers)} headers compile alone")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
