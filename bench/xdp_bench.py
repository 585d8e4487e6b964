#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a dropped packet costs: by XDP and by tc of tpx-bpf, and by nftables in its ingress and prerouting hooks.

usage: sudo bench/xdp_bench.py [TPX-BPF] [--rounds N] [--seconds S] [--rules N]

Two namespaces of its own, joined by a veth. Frames of UDP are made by BPF_PROG_TEST_RUN (live frames) on one side; the
other one's NAPI has a kernel thread, whose clock is all that receiving and dropping cost. Printed is the median of the
rounds, in dropped packets per second of that clock, and the median of each round's ratio to prerouting in that round.
"""
import argparse
import ctypes
import json
import os
import pathlib
import platform
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time

REPO = pathlib.Path(__file__).resolve().parent.parent
SOURCE, TARGET, PORT = "192.0.2.2", "198.51.100.2", 9
BPF_OBJ_GET, BPF_PROG_TEST_RUN, LIVE_FRAMES = 7, 10, 2
SYS_BPF = {"x86_64": 321, "aarch64": 280}
HOOKS = ("xdp", "tc", "ingress", "prerouting", "tracked")
PAYLOAD = b"x" * 18
BURST = 192  # what the ring of a veth holds


def sh(*argv, **kwargs):
    return subprocess.run([str(a) for a in argv], check=True, text=True, capture_output=True, **kwargs).stdout


def bpf(command, attributes):
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.syscall(SYS_BPF[platform.machine()], command, attributes, len(attributes))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"bpf({command})")
    return result


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xffff) + (total >> 16)
    return ~(total + (total >> 16)) & 0xffff


def frame(mac):
    udp = struct.pack("!HHHH", 40000, PORT, 8 + len(PAYLOAD), 0) + PAYLOAD
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, socket.inet_aton(SOURCE),
                       socket.inet_aton(TARGET))
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    return mac + bytes.fromhex("005300000001") + b"\x08\x00" + head + udp


def flood(pin, ifindex, mac, seconds):
    """Runs in the sender's namespace."""
    path = ctypes.create_string_buffer(pin.encode())
    attributes = ctypes.create_string_buffer(struct.pack("=QII", ctypes.addressof(path), 0, 0))
    program = bpf(BPF_OBJ_GET, attributes)
    data = frame(bytes.fromhex(mac))
    packet = ctypes.create_string_buffer(data)
    context = ctypes.create_string_buffer(struct.pack("=6I", 0, len(data), 0, ifindex, 0, 0))
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        attributes = ctypes.create_string_buffer(struct.pack(
            "=4I2Q4I2Q4I", program, 0, len(data), 0, ctypes.addressof(packet), 0, BURST, 0, 24, 0,
            ctypes.addressof(context), 0, LIVE_FRAMES, 0, 64, 0))
        bpf(BPF_PROG_TEST_RUN, attributes)
        os.sched_yield()


class Bench:
    def __init__(self, binary, rules):
        self.ports = [*range(PORT + 1, PORT + rules), PORT]  # the rule that drops comes last
        self.binary, self.tag = binary, f"tpxx{os.getpid()}"
        self.folder = tempfile.TemporaryDirectory(prefix=self.tag)
        self.pin = pathlib.Path("/sys/fs/bpf") / f"{self.tag}-flood"
        self.sender, self.gateway, self.device = self.tag + "s", self.tag + "g", f"xb{os.getpid()}"

    def at(self, name, *argv, **kwargs):
        return sh("nsenter", f"--net=/run/netns/{name}", "--", *argv, **kwargs)

    def __enter__(self):
        try:
            self.build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def build(self):
        for name in (self.sender, self.gateway):
            sh("ip", "netns", "add", name)
            sh("ip", "-n", name, "link", "set", "lo", "up")
        sh("ip", "-n", self.sender, "link", "add", "out", "type", "veth", "peer", "name", self.device, "netns",
           self.gateway)
        sh("ip", "-n", self.gateway, "addr", "add", "192.0.2.1/24", "dev", self.device)
        sh("ip", "-n", self.gateway, "link", "set", self.device, "up")
        sh("ip", "-n", self.sender, "link", "set", "out", "up")
        built = f"{self.folder.name}/flood.o"
        sh("clang", "-target", "bpf", "-O2", "-g", f"-I/usr/include/{platform.machine()}-linux-gnu", "-c",
           REPO / "bench/xdp_flood.bpf.c", "-o", built)
        sh("bpftool", "prog", "load", built, self.pin)
        self.at(self.sender, "ip", "link", "set", "out", "xdpdrv", "pinned", self.pin)
        # Both for the NAPI that receives redirected frames where no XDP program does it.
        self.at(self.gateway, "ethtool", "-K", self.device, "gro", "on")
        # Unlike nsenter, this mounts the namespace's own /sys.
        sh("ip", "netns", "exec", self.gateway, "sh", "-c", f"echo 1 > /sys/class/net/{self.device}/threaded")
        links = json.loads(sh("ip", "-n", self.sender, "-j", "link", "show", "out"))
        self.ifindex = links[0]["ifindex"]
        links = json.loads(sh("ip", "-n", self.gateway, "-j", "link", "show", self.device))
        self.mac = links[0]["address"].replace(":", "")

    def __exit__(self, *_):
        subprocess.run(["nsenter", f"--net=/run/netns/{self.gateway}", self.binary, "--instance", self.tag, "detach"],
                       capture_output=True, check=False)
        for name in (self.sender, self.gateway):
            subprocess.run(["ip", "netns", "del", name], check=False)
        self.pin.unlink(missing_ok=True)
        self.folder.cleanup()

    def thread(self):
        for path in pathlib.Path("/proc").glob("[0-9]*/comm"):
            try:
                if path.read_text().startswith(f"napi/{self.device}"[:15]):
                    return path.parent
            except OSError:
                pass
        raise RuntimeError("the device's NAPI has no thread")

    def tpx(self, *args):
        return self.at(self.gateway, self.binary, "--instance", self.tag, *args)

    def begin(self, hook):
        if hook in ("xdp", "tc"):
            config = pathlib.Path(self.folder.name) / "config.json"
            config.write_text(json.dumps({
                "version": 1, "interfaces": {"lan": self.device}, "xdp": "native" if hook == "xdp" else "off",
                "rules": [{"name": f"no{port}", "match": {"proto": "udp", "dport": port}, "action": "drop"}
                          for port in self.ports]}))
            self.tpx("load", "--config", config)
            places = [e["xdp"] for e in json.loads(self.tpx("status", "--json"))["early_drop"]]
            if places != ["native" if hook == "xdp" else "none"]:
                raise RuntimeError(f"XDP is {places}")
            return
        family, chain = {"ingress": ("netdev", f"type filter hook ingress device {self.device} priority 0"),
                         "prerouting": ("ip", "type filter hook prerouting priority raw"),
                         "tracked": ("ip", "type filter hook prerouting priority mangle")}[hook]
        track = "ct state established accept;" if hook == "tracked" else ""
        rules = "".join(f"udp dport {port} counter name dropped drop\n" for port in self.ports)
        self.at(self.gateway, "nft", "-f", "-", input=f"""table {family} bench {{
            counter dropped {{ }}
            chain c {{ {chain}; {track} {rules} }}
        }}""")

    def counted(self, hook):
        if hook in ("xdp", "tc"):
            return next(r["packets"] for r in json.loads(self.tpx("counters", "--json"))["rules"] if r["name"] == f"no{PORT}")
        listed = json.loads(self.at(self.gateway, "nft", "-j", "list", "counters"))["nftables"]
        return next(entry["counter"]["packets"] for entry in listed if "counter" in entry)

    def end(self, hook):
        if hook in ("xdp", "tc"):
            self.tpx("detach")
        else:
            self.at(self.gateway, "nft", "flush", "ruleset")

    def measure(self, hook, seconds):
        """Packets per second of the thread's clock."""
        self.begin(hook)
        try:
            thread = self.thread()
            # Both on one CPU: on two they would fight for the pool of pages that frames are made of.
            cpu = max(os.sched_getaffinity(0))
            os.sched_setaffinity(int(thread.name), {cpu})
            clock = lambda: int((thread / "schedstat").read_text().split()[0])
            before, spent = self.counted(hook), clock()
            self.at(self.sender, "taskset", "-c", cpu, sys.executable, __file__, "--flood", self.pin,
                    self.ifindex, self.mac, seconds)
            time.sleep(0.2)
            spent = clock() - spent
            return (self.counted(hook) - before) / (spent / 1e9)
        finally:
            self.end(hook)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary", nargs="?", default=str(REPO / "build/release/tpx-bpf"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--rules", type=int, default=1, help="the packets meet the last of so many")
    parser.add_argument("--flood", nargs=4, metavar=("PIN", "IFINDEX", "MAC", "SECONDS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.flood:
        pin, ifindex, mac, seconds = options.flood
        return flood(pin, int(ifindex), mac, float(seconds))
    if missing := [tool for tool in ("nft", "bpftool", "clang", "ethtool") if not shutil.which(tool)]:
        sys.exit("missing tools: " + " ".join(missing))
    rounds = []
    with Bench(options.binary, options.rules) as bench:
        for _ in range(options.rounds):
            rounds.append({hook: bench.measure(hook, options.seconds) for hook in HOOKS})
            print(" ".join(f"{hook} {rounds[-1][hook] / 1e6:.2f}" for hook in HOOKS), file=sys.stderr)
    print("| dropped by | million packets per CPU second | of prerouting |\n|---|---|---|")
    for hook in HOOKS:
        rate = statistics.median(r[hook] for r in rounds)
        ratio = statistics.median(r[hook] / r["prerouting"] for r in rounds)
        name = {"xdp": "tpx-bpf, native XDP", "tc": "tpx-bpf, tc", "ingress": "nftables, ingress",
                "prerouting": "nftables, prerouting (raw)",
                "tracked": "nftables, prerouting behind connection tracking"}[hook]
        print(f"| {name} | {rate / 1e6:.2f} | {ratio:.1f} |")


if __name__ == "__main__":
    main()
