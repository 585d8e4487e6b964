#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""UDP relay against plain forwarding, and against nginx's stream module where it is installed, in one run.

usage: sudo bench/udp_bench.py UDP-LOAD [TPX-BPF] [--rounds N] [--seconds S] [--only forward,tpx,tpx-stack,nginx,bypass,fib]
                               [--workloads rr,rr-pinned,bulk,trains,churn] [--gro] [--firewall] [--rate N] [--json FILE]

Three namespaces of its own. Rounds are interleaved; printed is the median of the rounds, and the median of each round's
ratio to forwarding in that round. nginx is an ordinary UDP proxy: clients address the gateway (no transparency to pay
for). tpx-bpf comes as it is by default, and with `forward: stack`, by its workers alone. One way means that the server sends a small datagram back for each thousand, as acknowledgements go. A datagram that arrives changed, or past the proxy, ends the benchmark.

CPU: of the proxy, the clocks of its processes; of all, these and both ends' and the kernel's worker threads'.
Microseconds per datagram that arrived where it should; an exchange is two. 'others' is what else kept the machine busy,
in cores: rounds with more than 0.3 are counted behind the '!', and are better measured again.
"""
import argparse
import json
import os
import pathlib
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

from udp_relays import BULK_PORT, CHURN_PORT, EXCHANGE_PORT, RELAYS, SESSIONS, STREAM_MODULE, Forwarding, Tpx
from udp_stage import SERVER, Stage, listens, remove_leftovers, wait_until

EXCHANGE_SIZE, BULK_SIZE, TRAIN, ANSWER = 100, 1200, 40, 1000
DESCRIPTORS = 200_000
FIRST_PORT = 2000  # of churn; each is used once
OTHERS_LIMIT = 0.3
PROXY_CPU, ENDS_CPU = {0}, {1}


def family(process):
    """The process and its children; none for forwarding."""
    if process is None:
        return []
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False)
    return [process.pid, *map(int, children.stdout.split())]


def pin(pids, cpus):
    for pid in pids:
        for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), cpus)


class Meter:
    """CPU seconds from its making to stop()."""

    def __init__(self, process):
        self.pids = family(process)
        self.begin = self.read()

    def read(self):
        # The clock of a process (CPUCLOCK_SCHED) has its threads that have ended, and no ticks.
        proxy = sum(time.clock_gettime(~pid << 3 | 2) for pid in self.pids)
        kernel = {}
        for path in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                if (path / "comm").read_text().startswith(("kworker/", "ksoftirqd/", "napi/")):
                    kernel[path.name] = int((path / "schedstat").read_text().split()[0]) / 1e9
            except OSError:
                pass
        user, nice, system, _, _, irq, softirq = map(int, pathlib.Path("/proc/stat").read_text().split()[1:8])
        busy = (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
        return time.monotonic(), proxy, kernel, busy

    def stop(self):
        (t0, proxy0, kernel0, busy0), (t1, proxy1, kernel1, busy1) = self.begin, self.read()
        kernel = sum(max(0, seconds - kernel0.get(pid, 0)) for pid, seconds in kernel1.items())
        return {"elapsed": t1 - t0, "proxy": proxy1 - proxy0, "kernel": kernel, "busy": busy1 - busy0}


class Workload:
    def __init__(self, name, title, port, size, client, pinned=False, before=()):
        self.name, self.title, self.port, self.size = name, title, port, size
        self.client, self.pinned, self.before = client, pinned, before
        self.one_way = client[0] == "blast"

    def measure(self, stage, relay, process):
        seconds, ends = stage.options.seconds, ENDS_CPU if self.pinned else None
        if self.pinned:
            pin(family(process), PROXY_CPU)
        mode = ("sink", "--answer", ANSWER) if self.one_way else ("echo",)
        server = stage.load("s", mode[0], SERVER, self.port, "--seconds", seconds + 60, *mode[1:], cpus=ends)
        wait_until(lambda: listens(server, self.port), "the server")
        if self.before:
            self.ask(stage, relay, self.before, ends)
        meter = Meter(process)
        client_said = self.ask(stage, relay, self.client, ends)
        if self.one_way:
            time.sleep(0.3)  # what is still in queues arrives, or does not
        server_said = json.loads(stage.end(server))
        cpu = meter.stop()
        if self.pinned:
            pin(family(process), range(os.cpu_count()))
        self.verify(relay, client_said, server_said)
        return self.row(client_said, server_said, cpu)

    def ask(self, stage, relay, client, cpus):
        mode, *more = client
        seconds = stage.options.seconds
        process = stage.load("c", mode, relay.target, self.port, "--seconds", seconds, "--size", self.size, *more,
                             cpus=cpus)
        said = json.loads(process.communicate(timeout=seconds + 30)[0])
        stage.started.remove(process)
        return said

    def verify(self, relay, client, server):
        if server["peers"] != [relay.seen]:
            raise RuntimeError(f"{relay.name}, {self.name}: the server saw {server['peers']}, not {relay.seen}")
        if server["bad"] or server["bytes"] != server["datagrams"] * self.size:
            raise RuntimeError(f"{relay.name}, {self.name}: datagrams arrived changed: {server}")
        if not self.one_way and client["answered"] == 0:
            raise RuntimeError(f"{relay.name}, {self.name}: no answers: {client}")

    def row(self, client, server, cpu):
        total = cpu["proxy"] + cpu["kernel"] + client["cpu_s"] + server["cpu_s"]
        if self.one_way:
            done, tried, datagrams = server["datagrams"], client["sent"] + client["failed"], server["datagrams"]
        else:
            done, tried, datagrams = client["answered"], client["answered"] + client["lost"], 2 * client["answered"]
        return {"rate": done / client["seconds"], "p50": client.get("p50_us", 0), "p99": client.get("p99_us", 0),
                "lost": 100 * (1 - done / tried), "proxy": cpu["proxy"] / datagrams * 1e6,
                "total": total / datagrams * 1e6, "others": max(0, cpu["busy"] - total) / cpu["elapsed"]}


def workloads(options):
    n, flows, rate = options.outstanding, options.flows, options.rate
    exchange = ("rr", "--sockets", n)
    bulk = ("blast", "--sockets", flows, *(("--rate", rate) if rate else ()))
    pace = f"{rate:,} a second" if rate else "saturated"
    return [
        Workload("rr", f"request/response, {n} outstanding, {EXCHANGE_SIZE} B", EXCHANGE_PORT, EXCHANGE_SIZE,
                 exchange),
        Workload("rr-pinned", "the same, proxy on one CPU, both ends on another", EXCHANGE_PORT, EXCHANGE_SIZE,
                 exchange, pinned=True),
        Workload("bulk", f"one way, {flows} flows, {BULK_SIZE} B, {pace}", BULK_PORT, BULK_SIZE, bulk),
        Workload("trains", f"one way, {flows} flows, trains of {TRAIN} x {BULK_SIZE} B (UDP_SEGMENT), {pace}",
                 BULK_PORT, BULK_SIZE, (*bulk, "--train", TRAIN)),
        # Last: the sessions it leaves would be in the way of others.
        # A session begins where another one ends: before, as many as the table has room for.
        Workload("churn", f"one exchange per flow, {n} at a time, {options.churn} flows", CHURN_PORT, EXCHANGE_SIZE,
                 ("churn", "--sockets", n, "--count", options.churn, "--first-port", FIRST_PORT + 2 * SESSIONS),
                 before=("churn", "--sockets", n, "--count", SESSIONS + 1000, "--first-port", FIRST_PORT)),
    ]


def report(workload, results):
    """results: relay's name -> one row per round."""
    print(f"\n{workload.title}\n{'':<20}{'per s':>10} {'of forw.':>8} {'p50 us':>8} {'p99 us':>8} {'lost %':>7} "
          f"{'proxy us':>9} {'all us':>8} {'of forw.':>8} {'others':>7}")
    base = results.get(Forwarding.name)
    for name, rows in results.items():
        median = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        ratio = {key: f"{statistics.median(row[key] / of[key] for row, of in zip(rows, base) if of[key]):.2f}"
                 if base and all(of[key] for of in base) else "-" for key in ("rate", "total")}
        bad = sum(row["others"] > OTHERS_LIMIT for row in rows)
        waits = [f"{median[key]:.0f}" if median[key] else "-" for key in ("p50", "p99")]
        print(f"{name:<20}{median['rate']:>10.0f} {ratio['rate']:>8} {waits[0]:>8} {waits[1]:>8} "
              f"{median['lost']:>7.2f} {median['proxy']:>9.2f} {median['total']:>8.2f} "
              f"{ratio['total']:>8} {median['others']:>7.2f}" + (f" !{bad}" if bad else ""))


def arguments():
    def names(known):
        def parse(text):
            chosen = text.split(",")
            if not set(chosen) <= set(known):
                raise argparse.ArgumentTypeError(f"choose from {','.join(known)}")
            return chosen
        return parse

    def number(low, high):
        def parse(text):
            if not low <= int(text) <= high:
                raise argparse.ArgumentTypeError(f"{low} to {high}")
            return int(text)
        return parse

    kinds = ["rr", "rr-pinned", "bulk", "trains", "churn"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("load", metavar="UDP-LOAD")
    parser.add_argument("tpx", metavar="TPX-BPF", nargs="?")
    parser.add_argument("--rounds", type=number(1, 100), default=5)
    parser.add_argument("--seconds", type=number(1, 60), default=3, help="of each measurement")
    parser.add_argument("--only", type=names(list(RELAYS)), default=["forward", "tpx", "tpx-stack", "nginx"])
    parser.add_argument("--workloads", type=names(kinds), default=kinds)
    parser.add_argument("--workers", type=number(1, 64), default=os.cpu_count(), help="of either proxy")
    parser.add_argument("--outstanding", type=number(1, 1024), default=32)
    parser.add_argument("--flows", type=number(1, 1024), default=4, help="of one-way traffic")
    parser.add_argument("--churn", type=number(100, 50_000), default=40_000, help="flows")
    parser.add_argument("--rate", type=number(0, 10_000_000), default=0,
                        help="datagrams a second one way; 0: saturated")
    parser.add_argument("--gro", action="store_true",
                        help="GRO on all devices, as network cards have it; veth's is off")
    parser.add_argument("--firewall", action="store_true",
                        help="connection tracking and a rule of nftables on the gateway's way through")
    parser.add_argument("--json", help="write every round to this file")
    options = parser.parse_args()
    if not options.tpx and any(issubclass(RELAYS[key], Tpx) for key in options.only):
        parser.error("name the TPX-BPF binary, or leave out of --only what needs it")
    if "nginx" in options.only and not (shutil.which("nginx") and STREAM_MODULE.exists()):
        print("nginx or its stream module is not installed (libnginx-mod-stream): left out", file=sys.stderr)
        options.only.remove("nginx")
    if "rr-pinned" in options.workloads and os.cpu_count() < 2:
        options.workloads.remove("rr-pinned")
    return options


def run(stage, relays, chosen, rounds):
    results = {workload.name: {relay.name: [] for relay in relays} for workload in chosen}
    for _ in range(rounds):
        for relay in relays:
            with relay as process:
                for workload in chosen:
                    results[workload.name][relay.name].append(workload.measure(stage, relay, process))
    return results


def main():
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(hard, DESCRIPTORS),) * 2)
    except (OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    remove_leftovers(options.tpx)
    with tempfile.TemporaryDirectory(prefix=f"tpxu{os.getpid()}-") as folder:
        stage = Stage(pathlib.Path(folder), options)
        try:
            stage.build()
            relays = [relay(stage) for key, relay in RELAYS.items() if key in options.only]
            chosen = [workload for workload in workloads(options) if workload.name in options.workloads]
            results = run(stage, relays, chosen, options.rounds)
        finally:
            stage.close()
    print(f"Linux {os.uname().release}, {os.cpu_count()} CPUs, {options.workers} workers, veth, MTU 1500, GRO "
          f"{'on' if options.gro else 'off'}, "
          f"{'a' if options.firewall else 'no'} firewall; median of {options.rounds} rounds")
    for workload in chosen:
        report(workload, results[workload.name])
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
