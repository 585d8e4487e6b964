#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What traffic feels of a reload of a million IPv4 and 200,000 IPv6 prefixes.

usage: sudo bench/reload_bench.py UDP-LOAD TPX-BPF [--rounds N] [--seconds S] [--outstanding N]

Requests and answers through the proxy: left alone, and while `reload --sets` runs again and again. Nothing may be lost.
Three namespaces of its own; rounds are interleaved, printed are the medians and the median of each round's ratio.
"""
import argparse
import json
import os
import pathlib
import random
import statistics
import subprocess
import tempfile
import time

from udp_relays import EXCHANGE_PORT, Tpx
from udp_stage import SERVER, Stage, listens, remove_leftovers, wait_until

V4, V6 = 1_000_000, 200_000


def write_list(path):
    """Networks and hosts outside those of the stage; a few repeat, as in lists from life."""
    chance = random.Random(1)
    with path.open("w") as file:
        for _ in range(V4):
            length = chance.choice((16, 19, 20, 21, 22, 23, 24, 24, 24, 24, 28, 30, 32, 32))
            bits = (chance.randrange(1 << 24, 100 << 24) >> 32 - length) << 32 - length
            file.write(f"{bits >> 24}.{bits >> 16 & 255}.{bits >> 8 & 255}.{bits & 255}/{length}\n")
        for _ in range(V6):
            file.write(f"2a{chance.randrange(256):02x}:{chance.randrange(1 << 16):x}:{chance.randrange(1 << 16):x}::/48\n")


class TpxWithList(Tpx):
    def __init__(self, stage):
        super().__init__(stage)
        write_list(stage.folder / "listed.txt")
        config = json.loads(self.config.read_text())
        config["sets"] = {"listed": {"file": "listed.txt"}}
        config["rules"].insert(0, {"name": "listed", "match": {"dst": "listed"}, "action": "drop"})
        self.config.write_text(json.dumps(config))

    def reload(self):
        return self.stage.spawn("g", *self.argv, "reload", "--sets", stderr=subprocess.PIPE)


def measure(stage, relay, reloads):
    """The client's report, with the times of the reloads that ran meanwhile."""
    options = stage.options
    server = stage.load("s", "echo", SERVER, EXCHANGE_PORT, "--seconds", options.seconds + 60)
    wait_until(lambda: listens(server, EXCHANGE_PORT), "the server")
    client = stage.load("c", "rr", SERVER, EXCHANGE_PORT, "--seconds", options.seconds, "--size", 100, "--sockets",
                        options.outstanding)
    took = []
    while reloads and client.poll() is None:
        began = time.monotonic()
        process = relay.reload()
        said = process.communicate(timeout=60)[1]
        stage.started.remove(process)
        if process.returncode != 0:
            raise RuntimeError(f"reload: {said.decode()}")
        took.append(time.monotonic() - began)
    said = json.loads(client.communicate(timeout=options.seconds + 30)[0])
    stage.started.remove(client)
    stage.end(server)
    if said["lost"]:
        raise RuntimeError(f"{said['lost']} exchanges were lost")
    return {**said, "rate": said["answered"] / said["seconds"], "took": took}


def report(options, quiet, busy):
    def median(rows, key):
        return statistics.median(row[key] for row in rows)

    print(f"Linux {os.uname().release}, {os.cpu_count()} CPUs; {options.outstanding} outstanding; median of "
          f"{options.rounds} rounds, none lost\n{'':<20}{'per s':>10} {'p50 us':>8} {'p99 us':>8}")
    for name, rows in (("left alone", quiet), ("while reloading", busy)):
        print(f"{name:<20}{median(rows, 'rate'):>10.0f} {median(rows, 'p50_us'):>8.0f} {median(rows, 'p99_us'):>8.0f}")
    ratio = {key: statistics.median(b[key] / q[key] for q, b in zip(quiet, busy))
             for key in ("rate", "p50_us", "p99_us")}
    print(f"{'ratio':<20}{ratio['rate']:>10.2f} {ratio['p50_us']:>8.2f} {ratio['p99_us']:>8.2f}")
    took = [seconds for row in busy for seconds in row["took"]]
    print(f"{len(took)} reloads, {statistics.median(took):.2f} s each")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("load", metavar="UDP-LOAD")
    parser.add_argument("tpx", metavar="TPX-BPF")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5, help="of each measurement")
    parser.add_argument("--outstanding", type=int, default=4, help="requests at a time")
    options = parser.parse_args()
    options.workers, options.gro, options.firewall = os.cpu_count(), False, False
    remove_leftovers(options.tpx)
    with tempfile.TemporaryDirectory(prefix=f"tpxu{os.getpid()}-") as folder:
        stage = Stage(pathlib.Path(folder), options)
        quiet, busy = [], []
        try:
            stage.build()
            relay = TpxWithList(stage)
            with relay:
                for _ in range(options.rounds):
                    quiet.append(measure(stage, relay, reloads=False))
                    busy.append(measure(stage, relay, reloads=True))
        finally:
            stage.close()
    report(options, quiet, busy)


if __name__ == "__main__":
    main()
