#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""No source file above 500 lines, and every one starts with its licence."""
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
LIMIT = 500
SUFFIXES = {".h", ".cc", ".c", ".py", ".def", ".sh"}


def main():
    faults = []
    for folder in ("src", "include", "bpf", "maps", "tests", "bench", "deploy"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix not in SUFFIXES or not path.is_file():
                continue
            lines = path.read_text().splitlines()
            name = path.relative_to(ROOT)
            if len(lines) > LIMIT:
                faults.append(f"{name}: {len(lines)} lines, more than {LIMIT}: split it by phase")
            if not any("SPDX-License-Identifier:" in line for line in lines[:2]):
                faults.append(f"{name}: no SPDX-License-Identifier in the first two lines")
    print("\n".join(faults) if faults else "all files are small enough and licensed")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
