#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Relay against plain forwarding, and against HAProxy where it is installed, in one run.

usage: sudo bench/relay_bench.py TPX-BPF [ROUNDS]

Three namespaces of its own; nginx serves, curl and wrk load. Rounds are interleaved, the median of each is printed with
its ratio to forwarding. The proxy's CPU time is its own process's; with everything on one machine, throughput alone would
compare scheduling. HAProxy runs as an ordinary TCP proxy (no transparency to pay for), splicing through 1 MiB pipes.
"""
import os
import pathlib
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

CLIENT, GATEWAY, SERVER = "192.0.2.10", "192.0.2.1", "198.51.100.80"
FILE_MIB = 512
CLOCK = os.sysconf("SC_CLK_TCK")


def sh(command):
    subprocess.run(command, shell=True, check=True, stdout=subprocess.DEVNULL)


class Stage:
    def __init__(self, folder):
        self.tag = f"tpxb{os.getpid()}"
        self.folder = folder
        self.started = []

    def ns(self, name):
        return f"{self.tag}-{name}"

    def inside(self, name, *argv):
        return ["nsenter", f"--net=/run/netns/{self.ns(name)}", "--", *map(str, argv)]

    def spawn(self, name, *argv):
        process = subprocess.Popen(self.inside(name, *argv), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        self.started.append(process)
        return process

    def build(self):
        c, g, s = self.ns("c"), self.ns("g"), self.ns("s")
        for n in (c, g, s):
            sh(f"ip netns add {n}; ip -n {n} link set lo up")
        for n, dev, addr, peer, peer_addr in ((c, "lan", f"{CLIENT}/24", "lan", f"{GATEWAY}/24"),
                                              (s, "wan", f"{SERVER}/24", "wan", "198.51.100.1/24")):
            sh(f"ip -n {n} link add eth0 type veth peer name {peer} netns {g}; ip -n {n} addr add {addr} dev eth0;"
               f"ip -n {g} addr add {peer_addr} dev {dev}; ip -n {n} link set eth0 up; ip -n {g} link set {dev} up")
        sh(f"ip -n {c} route add default via {GATEWAY}; ip -n {s} route add default via 198.51.100.1")
        sh(f"nsenter --net=/run/netns/{g} sysctl -qw net.ipv4.ip_forward=1")
        self.serve()

    def serve(self):
        www = self.folder / "www"
        www.mkdir()
        with open(www / "large", "wb") as file:
            for _ in range(FILE_MIB):
                file.write(os.urandom(1 << 20))
        (www / "small").write_text("x" * 1000)
        (self.folder / "nginx.conf").write_text(
            f"daemon off; worker_processes 1; pid {self.folder}/pid; error_log /dev/null;\n"
            "events { worker_connections 4096; }\n"
            f"http {{ access_log off; sendfile on; server {{ listen 80 backlog=4096; listen 81 backlog=4096; root {www}; }} }}\n")
        self.folder.chmod(0o755)
        self.spawn("s", "nginx", "-c", self.folder / "nginx.conf", "-e", "/dev/null")
        time.sleep(0.5)

    def close(self):
        for process in self.started:
            process.send_signal(signal.SIGTERM)
        for process in self.started:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
        for name in "cgs":
            subprocess.run(["ip", "netns", "del", self.ns(name)], check=False)

    def get(self, target):
        out = subprocess.run(self.inside("c", "curl", "-s", "-o", "/dev/null", "-w", "%{speed_download}",
                                         f"http://{target}/large"), capture_output=True, text=True, check=True)
        return float(out.stdout) * 8 / 1e9

    def load(self, target):
        out = subprocess.run(self.inside("c", "wrk", "-t1", "-c32", "-d3s", "-H", "Connection: close",
                                         f"http://{target}/small"), capture_output=True, text=True, check=True)
        return float(re.search(r"Requests/sec:\s+([\d.]+)", out.stdout).group(1))


def cpu_seconds(process):
    if process is None:
        return 0.0
    fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / CLOCK


class Forwarding:
    # A port of its own: the gateway's TIME_WAIT sockets of a proxied round would stop packets of the same tuple.
    name, target = "kernel forwarding", f"{SERVER}:81"

    def __enter__(self):
        return None

    def __exit__(self, *_):
        pass


class Tpx:
    name, target = "tpx-bpf", SERVER

    def __init__(self, stage, binary):
        self.argv = (binary, "--instance", stage.tag)
        self.stage = stage

    def __enter__(self):
        self.process = self.stage.spawn("g", *self.argv, "run", "--lan", "lan", "--wan", "wan")
        time.sleep(1)
        return self.process

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        subprocess.run(self.stage.inside("g", *self.argv, "detach"), check=True, stdout=subprocess.DEVNULL)


class Haproxy:
    name, target = "haproxy, splice", f"{GATEWAY}:8080"

    def __init__(self, stage):
        self.stage = stage
        self.config = stage.folder / "haproxy.cfg"
        self.config.write_text("global\n maxconn 4000\n nbthread 2\n tune.pipesize 1048576\ndefaults\n mode tcp\n"
                               " option splice-auto\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n"
                               f"listen x\n bind {GATEWAY}:8080\n server s {SERVER}:80\n")

    def __enter__(self):
        self.process = self.stage.spawn("g", "haproxy", "-db", "-f", self.config)
        time.sleep(1)
        return self.process

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()


def measure(stage, relay):
    with relay as process:
        stage.load(relay.target)
        start = cpu_seconds(process)
        speed = stage.get(relay.target)
        bulk = (cpu_seconds(process) - start) / (FILE_MIB * 1.048576e-3)
        start, rate, seconds = cpu_seconds(process), stage.load(relay.target), 3
        per_connection = (cpu_seconds(process) - start) / (rate * seconds) * 1e6
        return speed, bulk, rate, per_connection


def main():
    binary, rounds = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 5
    with tempfile.TemporaryDirectory(prefix="tpx-bench-") as folder:
        stage = Stage(pathlib.Path(folder))
        try:
            stage.build()
            relays = [Forwarding(), Tpx(stage, binary)] + ([Haproxy(stage)] if shutil.which("haproxy") else [])
            results = {relay.name: [] for relay in relays}
            for _ in range(rounds):
                for relay in relays:
                    results[relay.name].append(measure(stage, relay))
        finally:
            stage.close()
    medians = {name: [statistics.median(column) for column in zip(*rows)] for name, rows in results.items()}
    base = medians[Forwarding.name]
    print(f"{'median of ' + str(rounds):<20} {'Gbit/s':>8} {'of forw.':>9} {'CPU s/GB':>9} {'conn/s':>9} {'of forw.':>9} {'CPU us/conn':>12}")
    for name, (speed, bulk, rate, per_connection) in medians.items():
        print(f"{name:<20} {speed:>8.1f} {speed / base[0]:>9.2f} {bulk:>9.2f} {rate:>9.0f} {rate / base[2]:>9.2f} {per_connection:>12.1f}")


if __name__ == "__main__":
    main()
