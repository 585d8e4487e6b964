# SPDX-License-Identifier: Apache-2.0
"""Network namespaces, processes and sockets for the end-to-end tests.

Everything is named tpxt-<pid>-<n>, so tests may run in parallel and a later run
can tell what a crashed one left behind.
"""
import atexit
import contextlib
import itertools
import json
import os
import pathlib
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
import unittest

from space import FAMILIES, V4, V6, Namespace, run

HERE = pathlib.Path(__file__).resolve().parent
REPO = HERE.parent.parent
BINARY = os.environ.get("TPX_BPF", str(REPO / "build/dev/tpx-bpf"))
SCALE = float(os.environ.get("TPX_TEST_SCALE", "1.0"))
BPFFS = pathlib.Path("/sys/fs/bpf")
PREFIX = "tpxt"
SKIP = 77
TOOLS = ("ip", "tc", "bpftool", "nsenter", "setpriv")

_numbers = itertools.count(1)
_labs = []


def scaled(number, least=1):
    return max(least, int(number * SCALE))


def unique():
    return f"{PREFIX}-{os.getpid()}-{next(_numbers)}"


def _find_cgroup2():
    for line in pathlib.Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        fields, _, rest = line.partition(" - ")
        if rest.startswith("cgroup2 ") and fields.split()[3] == "/" and fields.split()[4].startswith("/sys/"):
            return pathlib.Path(fields.split()[4])
    return None


def cgroup_root():
    """Where cgroup v2 is mounted as a whole; mounted there, where a machine has it nowhere. None where it lacks it."""
    if not _find_cgroup2() and os.path.isdir("/sys/fs/cgroup") and not os.path.ismount("/sys/fs/cgroup"):
        run(["mount", "-t", "cgroup2", "cgroup2", "/sys/fs/cgroup"], check=False)
    return _find_cgroup2()


def wait_until(condition, what, seconds=10, step=0.02):
    """Polls until condition() is true and returns its value."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(step)


class Peer:
    """A script in a namespace: commands in, one JSON document per line out."""

    def __init__(self, namespace, *args, script="peer.py"):
        self.process = namespace.popen(
            "/usr/bin/python3", HERE / script, *args, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.on_first = None  # called with the first answer
        self._lines = queue.Queue()
        self._pumping = threading.Thread(target=self._pump, daemon=True)
        self._pumping.start()

    def _pump(self):
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def read(self, timeout=60):
        try:
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            raise AssertionError(f"peer said nothing for {timeout} s") from None
        if line is None:
            raise AssertionError(f"peer ended with {self.process.wait()}")
        answer = json.loads(line)
        on_first, self.on_first = self.on_first, None
        if on_first:
            on_first(answer)
        return answer

    def ask(self, command, timeout=60):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self.read(timeout)

    def close(self):
        end(self.process)
        self.process.stdin.close()
        self._pumping.join()
        self.process.stdout.close()


def sources_of(answer):
    """Of the peers `hold` and `transfer`: as whom the server saw them. None stands for those that failed."""
    if isinstance(answer, dict):
        return {*answer["sources"], *([None] if answer["failures"] else [])}
    return {one["seen"][0] if "seen" in one else None for one in answer}


def end(process):
    if process.poll() is None:
        process.kill()
    process.wait()


class Lab:
    """client -- gateway -- server, both families, forwarding on."""

    def __init__(self):
        self.name = unique()
        # Called with what a server saw of a client: protocol, the client's own address and port, whether
        # it chose that port, the server's, and the address that the server saw.
        self.on_seen = lambda proto, client, chosen, server, seen: None
        self._closing = contextlib.ExitStack()
        _labs.append(self)
        self.client = self.namespace("c")
        self.gateway = self.namespace("g")
        self.server = self.namespace("s")
        self.gateway.ip("link set lo up")
        self.link(self.client, "c0", self.gateway, "lan0")
        self.link(self.server, "s0", self.gateway, "wan0")
        for family in FAMILIES:
            self.address(self.client, "c0", family, family.client, family.lan)
            self.address(self.server, "s0", family, family.server, family.wan)
            self.address(self.gateway, "lan0", family, family.lan)
            self.address(self.gateway, "wan0", family, family.wan)
        self.gateway.sysctl("net/ipv4/ip_forward", 1)
        self.gateway.sysctl("net/ipv6/conf/all/forwarding", 1)

    def namespace(self, suffix):
        space = Namespace(f"{self.name}-{suffix}")
        self._closing.callback(space.close)
        # cubic is refused in a namespace where the host's list of allowed ones lacks it
        allowed = pathlib.Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control").read_text().split()
        space.sysctl("net/ipv4/tcp_congestion_control", "cubic" if "cubic" in allowed else "reno")
        space.sysctl("net/ipv4/ip_local_port_range", "1024 65535")
        for scope in ("all", "default"):
            space.sysctl(f"net/ipv6/conf/{scope}/accept_dad", 0)
            space.sysctl(f"net/ipv4/conf/{scope}/rp_filter", 0)
        space.ip("link set lo up")
        return space

    @staticmethod
    def link(first, device, second, other):
        first.ip(f"link add {device} type veth peer name {other} netns {second.name}", f"link set {device} up")
        second.ip(f"link set {other} up")

    @staticmethod
    def address(space, device, family, address, gateway=None):
        nodad = " nodad" if family is V6 else ""
        space.ip(f"addr add {address}/{family.bits} dev {device}{nodad}",
                 *([f"route add default via {gateway}"] if gateway else []))

    def peer(self, space, *args):
        peer = Peer(space, *args)
        self._closing.callback(peer.close)
        if space is self.client and args[0] in ("hold", "transfer"):
            peer.on_first = lambda answer: self._of_many(args[1:3], answer)
        return peer

    def _of_many(self, server, answer):
        """What the server saw of many connections; where they differ, it is by more than the flow."""
        seen = sources_of(answer)
        if len(seen) == 1 and None not in seen:
            self.on_seen("tcp", ((V6 if ":" in server[0] else V4).client, 50000), False, server, seen.pop())

    def serve(self, port=8080, space=None):
        """The server of peer.py: says who called, echoes, transfers."""
        peer = self.peer(space or self.server, "serve", port)
        peer.read()
        return peer

    def who(self, family, port=8080, timeout=10, source_port=0, asks=True):
        """The source address and port that the server saw for a new connection.

        Without `asks` nobody is told: what is there may change before he looks, or is not the product's doing."""
        sock = self.client.connect(family, family.server, port, timeout, source_port)
        with sock, sock.makefile("rw") as stream:
            own = sock.getsockname()[:2]
            stream.write("W\n")
            stream.flush()
            line = stream.readline()
        if not line:
            raise ConnectionError("end of stream before the answer")
        seen = tuple(json.loads(line))
        if asks:
            self.on_seen("tcp", own, source_port != 0, (family.server, port), seen[0])
        return seen

    def close(self):
        if self in _labs:
            _labs.remove(self)
            self._closing.close()


def _close_all():
    for lab in list(_labs):
        lab.close()


def _remove_leftovers():
    """Of runs that are gone. Their processes died with them (--pdeathsig)."""
    for base, remove in ((pathlib.Path("/run/netns"), lambda p: run(["ip", "netns", "del", p.name], check=False)),
                         (BPFFS, shutil.rmtree), (pathlib.Path("/run"), shutil.rmtree)):
        for path in base.glob(PREFIX + "-*"):
            pid = path.name.split("-")[1]
            if not pathlib.Path("/proc", pid).exists():
                with contextlib.suppress(OSError):
                    remove(path)


def _unfit():
    if os.geteuid() != 0:
        return "needs root"
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    return f"missing tools: {' '.join(missing)}" if missing else None


def main():
    """In place of unittest.main: exit 77 with the reason where nothing can be tested."""
    reason = _unfit()
    if reason:
        print(f"skipped: {reason}")
        sys.exit(1 if os.environ.get("TPX_REQUIRE_PRIV") == "1" else SKIP)
    if not os.access(BINARY, os.X_OK):
        sys.exit(f"no binary at {BINARY} (set TPX_BPF)")
    if not os.path.ismount(BPFFS):
        run(["mount", "-t", "bpf", "-o", "mode=700", "bpf", BPFFS])
    _remove_leftovers()
    atexit.register(_close_all)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda n, _: sys.exit(128 + n))
    result = unittest.main(module="__main__", exit=False, verbosity=2).result
    if result.skipped and os.environ.get("TPX_REQUIRE_PRIV") == "1":
        sys.exit(1)
    if result.testsRun and len(result.skipped) == result.testsRun:
        print("skipped: " + "; ".join(sorted({why for _, why in result.skipped})))
        sys.exit(SKIP)
    sys.exit(0 if result.wasSuccessful() else 1)
