#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every path of this repository that a document mentions in backquotes or links exists."""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOP = ("bpf", "src", "include", "maps", "bench", "tests", "deploy", "docs")
QUOTED = re.compile(r"`((?:%s)/[\w./*{},-]+)`" % "|".join(TOP))
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)(?:#[^)]*)?\)")


def exists(base, name):
    name = name.rstrip("/")
    if "*" in name:
        return any(True for _ in base.glob(name))
    match = re.fullmatch(r"(.*)\{([^}]+)\}(.*)", name)
    if match:
        return all(exists(base, match[1] + part + match[3]) for part in match[2].split(","))
    return (base / name).exists()


def main():
    faults = []
    documents = [p for p in ROOT.rglob("*.md") if "build" not in p.relative_to(ROOT).parts]
    for document in sorted(documents):
        for number, line in enumerate(document.read_text().splitlines(), 1):
            where = f"{document.relative_to(ROOT)}:{number}"
            for name in QUOTED.findall(line):
                if not exists(ROOT, name):
                    faults.append(f"{where}: {name} does not exist")
            for name in LINK.findall(line):
                if not exists(document.parent, name):
                    faults.append(f"{where}: link to {name} leads nowhere")
    print("\n".join(faults) if faults else f"{len(documents)} documents name only what exists")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
