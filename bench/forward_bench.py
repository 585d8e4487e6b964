#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a forwarded packet costs: by the stack, by the stack behind a bypass of tpx-bpf, and by `forward: fib`.

usage: sudo bench/forward_bench.py [TPX-BPF] [--rounds N] [--seconds S]

As xdp_bench.py, but that the frames leave the gateway, by a tap device that nobody reads, which drops and counts them. Once without any netfilter
rule, and once with a firewall that tracks connections. Printed is the median of the rounds, in packets per second of
the clock of the thread that receives and forwards, and the median of each round's ratio to the stack in that round.
"""
import argparse
import ctypes
import fcntl
import json
import os
import pathlib
import statistics
import struct
import sys

from xdp_bench import PORT, REPO, TARGET, Bench, sh

TUNSETIFF, IFF_TAP, IFF_NO_PI, CLONE_NEWNET = 0x400454ca, 2, 0x1000, 0x40000000
WAYS = {"stack": "the stack alone", "bypass": "the stack, behind a `bypass` rule",
        "early": "the same, where native XDP has something else to drop", "fib": "`forward: fib`"}
FIREWALL = f"""table inet filter {{
  chain way {{
    type filter hook forward priority filter
    ct state established,related accept
    udp dport {PORT} accept
    drop
  }}
}}
"""


def setns(fd, kind):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, kind):
        raise OSError(ctypes.get_errno(), "setns")


class ForwardBench(Bench):
    def __init__(self, binary):
        super().__init__(binary, 1)
        self.way_out = f"xo{self.device[2:]}"

    def build(self):
        super().build()
        self.tap = self.open_tap()
        sh("tc", "-n", self.gateway, "qdisc", "replace", "dev", self.way_out, "root", "noqueue")
        sh("ip", "-n", self.gateway, "link", "set", self.way_out, "up")
        sh("ip", "-n", self.gateway, "route", "add", TARGET, "dev", self.way_out)
        sh("ip", "-n", self.gateway, "neigh", "add", TARGET, "lladdr", "00:53:00:00:00:02", "dev", self.way_out)
        self.at(self.gateway, "sysctl", "-qw", "net.ipv4.ip_forward=1")

    def open_tap(self):
        """It lives in the gateway's namespace, as long as the descriptor."""
        own, there = os.open("/proc/self/ns/net", os.O_RDONLY), os.open(f"/run/netns/{self.gateway}", os.O_RDONLY)
        setns(there, CLONE_NEWNET)
        try:
            tap = os.open("/dev/net/tun", os.O_RDWR)
            fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", self.way_out.encode(), IFF_TAP | IFF_NO_PI))
            return tap
        finally:
            setns(own, CLONE_NEWNET)
            os.close(own)
            os.close(there)

    def begin(self, hook):
        way, _, firewall = hook.partition("+")
        if firewall:
            self.at(self.gateway, "nft", "-f", "-", input=FIREWALL)
        if way == "stack":
            return
        config = pathlib.Path(self.folder.name) / "config.json"
        config.write_text(json.dumps({
            "version": 1, "interfaces": {"lan": self.device}, "xdp": "native" if way == "early" else "off",
            "rules": [{"name": "no", "match": {"proto": "udp", "dport": PORT + 1}, "action": "drop"},
                      {"name": "way", "match": {"proto": "udp", "dport": PORT}, "action": "bypass",
                       "forward": "fib" if way == "fib" else "stack"}]}))
        self.tpx("load", "--config", config)

    def counted(self, hook):
        link = json.loads(sh("ip", "-n", self.gateway, "-s", "-j", "link", "show", self.way_out))[0]
        return link["stats64"]["tx"]["packets"] + link["stats64"]["tx"]["dropped"]

    def end(self, hook):
        if not hook.startswith("stack"):
            self.tpx("detach")
        self.at(self.gateway, "nft", "flush", "ruleset")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary", nargs="?", default=str(REPO / "build/release/tpx-bpf"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2)
    options = parser.parse_args()
    hooks = [*WAYS, *(f"{way}+firewall" for way in WAYS)]
    rounds = []
    with ForwardBench(options.binary) as bench:
        for _ in range(options.rounds):
            rounds.append({hook: bench.measure(hook, options.seconds) for hook in hooks})
            print(" ".join(f"{hook} {rounds[-1][hook] / 1e6:.2f}" for hook in hooks), file=sys.stderr)
    print("| forwarded by | million packets per CPU second | of the stack | with a firewall | of the stack |")
    print("|---|---|---|---|---|")
    for way, name in WAYS.items():
        cells = []
        for more in ("", "+firewall"):
            rate = statistics.median(r[way + more] for r in rounds)
            ratio = statistics.median(r[way + more] / r["stack" + more] for r in rounds)
            cells.append(f"{rate / 1e6:.2f} | {ratio:.2f}")
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
