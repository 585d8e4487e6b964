#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Includes only go down: each layer may include itself and the layers listed for it.

Also: only some files may name an address family, because everything else works
on mapped addresses; and only some layers may touch libbpf, liburing, libmnl.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]

LAYERS = {
    "base": set(),
    "sys": {"base"},
    "bpf": {"base", "sys"},
    "policy": {"base"},
    "io": {"base", "sys"},
    "control": {"base", "sys", "bpf", "policy"},
    "data": {"base", "sys", "io"},
    "observe": {"base", "sys", "bpf"},
    "app": {"base", "sys", "bpf", "policy", "io", "control", "data", "observe"},
    "cli": {"base", "policy", "observe", "app"},
}
LIBRARIES = {
    "bpf/": {"bpf"},
    "xdp/": {"bpf"},
    "tpx.skel.h": {"bpf"},
    "liburing": {"io"},
    "libmnl": {"sys"},
    "linux/rtnetlink": {"sys"},
    "yaml-cpp": {"policy"},
    "nlohmann": {"control", "observe", "cli", "app"},
    "CLI/": {"cli"},
}
FAMILY_FILES = {"src/base/address.cc", "src/sys/rtnl_devices.cc", "src/sys/rtnl_routing.cc", "src/sys/sock_diag.cc",
                "src/sys/icmp.cc", "src/control/trial_frame.cc", "src/sys/socket.cc", "src/sys/udp_raw.cc", "src/sys/udp_socket.cc",
                "bpf/lib/parse.h", "bpf/lib/family.h"}
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]')
FAMILY = re.compile(r"\b(AF_INET6?|PF_INET6?|ETH_P_IP(V6)?)\b")


def layer_of(path):
    parts = path.relative_to(ROOT).parts
    if parts[0] == "src" and len(parts) > 2:
        return parts[1]
    if parts[:2] == ("include", "tpx"):
        return parts[2]
    return None


def check_include(path, number, name, layer, faults):
    where = f"{path.relative_to(ROOT)}:{number}"
    if name.startswith("tpx/"):
        other = name.split("/")[1]
        if other != layer and other not in LAYERS[layer]:
            faults.append(f"{where}: layer {layer} must not include {name}")
    for prefix, allowed in LIBRARIES.items():
        if name.startswith(prefix) and layer not in allowed:
            faults.append(f"{where}: only {', '.join(sorted(allowed))} may include <{name}>")


def check_file(path, faults):
    layer = layer_of(path)
    relative = str(path.relative_to(ROOT))
    for number, line in enumerate(path.read_text().splitlines(), 1):
        match = INCLUDE.match(line)
        if match and layer in LAYERS:
            check_include(path, number, match.group(1), layer, faults)
        if match and layer is None and relative.startswith(("bpf/", "maps/")) and "tpx/" in match.group(1):
            faults.append(f"{relative}:{number}: kernel side must not include user-space headers")
        code = line.split("//")[0]
        if FAMILY.search(code) and not code.lstrip().startswith("*") and relative not in FAMILY_FILES:
            faults.append(f"{relative}:{number}: address family named outside {', '.join(sorted(FAMILY_FILES))}")


def main():
    faults = []
    files = [p for folder in ("src", "include", "bpf", "maps") for p in (ROOT / folder).rglob("*")
             if p.suffix in (".h", ".cc", ".c", ".def")]
    for path in sorted(files):
        check_file(path, faults)
    print("\n".join(faults) if faults else f"{len(files)} files keep to the layers")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
