# SPDX-License-Identifier: Apache-2.0
"""What a machine looks like from outside, to compare before and after."""
import json
import os
import pathlib

import harness


def _sysctls(space):
    values = {}
    with space.entered():
        for folder, _, files in os.walk("/proc/sys/net"):
            for name in files:
                path = os.path.join(folder, name)
                try:
                    values[path] = pathlib.Path(path).read_text()
                except OSError:
                    pass  # write-only, or without a value
    return values


def _tcx(space):
    """Programs on tc and XDP hooks as the kernel tells about the namespace's devices."""
    found = {}
    for device in json.loads(space.run("ip", "-j", "-d", "link", "show").stdout):
        name = device["ifname"]
        found[f"xdp {name}"] = device.get("xdp")
        for side in ("ingress", "egress"):
            found[f"filters {name} {side}"] = space.run("tc", "filter", "show", "dev", name, side).stdout
    return found


# a cached route has a life of its own
_COMMANDS = (("ip", "-4", "rule"), ("ip", "-6", "rule"), ("ip", "-4", "route", "show", "table", "all"),
             ("ip", "-6", "route", "show", "table", "all"), ("tc", "qdisc", "show"), ("ip", "link"), ("ip", "addr"),
             ("nft", "list", "ruleset"))


def of(space):
    """Everything of a namespace that loading may change, as a flat dictionary."""
    seen = {" ".join(command): space.run(*command, check=False).stdout for command in _COMMANDS}
    seen.update(_tcx(space))
    seen.update(_sysctls(space))
    return seen


def difference(before, after):
    """Readable lines; an empty list where nothing changed."""
    return [f"{key}: {before.get(key)!r} -> {after.get(key)!r}"
            for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key)]


def _listing(kind):
    """An object of others that goes meanwhile ends bpftool's list with an error: once more then."""
    for _ in range(100):
        done = harness.run(["bpftool", "-j", "-f", kind, "show"], check=False)
        entries = json.loads(done.stdout) if done.stdout.strip() else []
        if isinstance(entries, list) and all("id" in entry for entry in entries):
            return entries
    raise AssertionError(f"bpftool {kind} show: {done.stdout[-200:]}{done.stderr}")


def objects(pins):
    """Ids of the programs, maps and links that hang on the pins in a folder."""
    own = {kind: {o["id"]: o for o in _listing(kind) if any(p.startswith(f"{pins}/") for p in o.get("pinned", []))}
           for kind in ("prog", "map", "link")}
    ids = {kind: set(found) for kind, found in own.items()}
    ids["prog"] |= {link["prog_id"] for link in own["link"].values() if "prog_id" in link}
    for program in _listing("prog"):
        if program["id"] in ids["prog"]:
            ids["map"] |= set(program.get("map_ids", []))
    for number, found in own["map"].items():
        if found["type"] == "array_of_maps":
            ids["map"] |= _inner(number)
    return ids


def _inner(number):
    done = harness.run(["bpftool", "-j", "map", "dump", "id", number], check=False)
    entries = json.loads(done.stdout) if done.stdout.strip() else []
    return {entry["inner_map_id"] for entry in entries if "inner_map_id" in entry}


def alive(ids):
    """Those of objects() that the kernel still has."""
    return {kind: left for kind in ids if (left := ids[kind] & {o["id"] for o in _listing(kind)})}
