# SPDX-License-Identifier: Apache-2.0
"""The three namespaces of udp_bench.py, and what runs in them."""
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

CLIENT, GATEWAY, SERVER, GATEWAY_WAN = "192.0.2.10", "192.0.2.1", "198.51.100.80", "198.51.100.1"
FIREWALL = """table inet filter {
  chain way {
    type filter hook forward priority filter
    ct state established,related accept
    udp dport 7000-7999 accept
    drop
  }
}
"""
TAG = re.compile(r"(tpxu(\d+))-[cgs]$")


def sh(command):
    subprocess.run(command, shell=True, check=True, stdout=subprocess.DEVNULL)


def wait_until(condition, what, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what}: not within {seconds} s")
        time.sleep(0.02)


def listens(process, port):
    if process.poll() is not None:
        raise RuntimeError(f"{process.args} ended with {process.returncode}")
    lines = pathlib.Path(f"/proc/{process.pid}/net/udp").read_text().splitlines()[1:]
    return any(line.split()[1].endswith(f":{port:04X}") for line in lines)


class Stage:
    def __init__(self, folder, options):
        self.tag = f"tpxu{os.getpid()}"
        self.folder = folder
        self.options = options
        self.started = []

    def ns(self, name):
        return f"{self.tag}-{name}"

    def inside(self, name, *argv):
        # Nothing outlives this script, however it ends.
        return ["nsenter", f"--net=/run/netns/{self.ns(name)}", "--", "setpriv", "--pdeathsig", "TERM",
                *map(str, argv)]

    def spawn(self, name, *argv, **kwargs):
        process = subprocess.Popen(self.inside(name, *argv), stdin=subprocess.DEVNULL,
                                   **{"stdout": subprocess.DEVNULL, **kwargs})
        self.started.append(process)
        return process

    def end(self, process, seconds=10):
        """SIGTERM, and what the process printed to a pipe."""
        process.send_signal(signal.SIGTERM)
        try:
            return process.communicate(timeout=seconds)[0]
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        finally:
            self.started.remove(process)

    def build(self):
        c, g, s = self.ns("c"), self.ns("g"), self.ns("s")
        for n in (c, g, s):
            sh(f"ip netns add {n}; ip -n {n} link set lo up")
        for n, dev, addr, peer_addr in ((c, "lan", CLIENT, GATEWAY), (s, "wan", SERVER, GATEWAY_WAN)):
            sh(f"ip -n {n} link add eth0 type veth peer name {dev} netns {g}; ip -n {n} addr add {addr}/24 dev eth0;"
               f"ip -n {g} addr add {peer_addr}/24 dev {dev}; ip -n {n} link set eth0 up; ip -n {g} link set {dev} up;"
               f"ip -n {n} route add default via {peer_addr}")
        sh(f"nsenter --net=/run/netns/{g} sysctl -qw net.ipv4.ip_forward=1")
        if self.options.firewall:
            subprocess.run(self.inside("g", "nft", "-f", "-"), input=FIREWALL, text=True, check=True)
        if self.options.gro:
            for n, dev in ((c, "eth0"), (g, "lan"), (g, "wan"), (s, "eth0")):
                sh(f"nsenter --net=/run/netns/{n} ethtool -K {dev} gro on")

    def close(self):
        for process in list(self.started):
            try:
                self.end(process, 5)
            except subprocess.TimeoutExpired:
                pass
        remove(self.tag, self.options.tpx)

    def load(self, name, *argv, cpus=None):
        pinned = ["taskset", "-c", ",".join(map(str, cpus))] if cpus else []
        return self.spawn(name, *pinned, self.options.load, *argv, stdout=subprocess.PIPE)


def remove(tag, binary):
    """What a run has left: its instance in the kernel, if there was one, and its namespaces."""
    gateway = pathlib.Path(f"/run/netns/{tag}-g")
    if binary and gateway.exists():
        subprocess.run(["nsenter", f"--net={gateway}", "--", binary, "--instance", tag, "detach"], check=False,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for name in "cgs":
        subprocess.run(["ip", "netns", "del", f"{tag}-{name}"], check=False, stderr=subprocess.DEVNULL)


def remove_leftovers(binary):
    folder = pathlib.Path("/run/netns")
    names = [TAG.match(path.name) for path in folder.iterdir()] if folder.exists() else []
    for tag, pid in {match.groups() for match in names if match}:
        if pathlib.Path(f"/proc/{pid}").exists():
            continue
        if not binary and pathlib.Path(f"/sys/fs/bpf/{tag}").exists():
            print(f"{tag} of an earlier run is still loaded: name the TPX-BPF binary to detach it", file=sys.stderr)
            continue
        remove(tag, binary)
        for path in pathlib.Path(tempfile.gettempdir()).glob(f"{tag}-*"):
            shutil.rmtree(path)
