# SPDX-License-Identifier: Apache-2.0
"""A network namespace: commands and processes that run in it, sockets that live in it."""
import contextlib
import ctypes
import dataclasses
import os
import pathlib
import socket
import subprocess

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000


@dataclasses.dataclass(frozen=True)
class Family:
    name: str
    af: int
    client: str
    lan: str
    wan: str
    server: str
    client_net: str
    server_net: str
    loopback: str
    bits: int
    ip: str  # the option of ip(8)


V4 = Family("v4", socket.AF_INET, "192.0.2.2", "192.0.2.1", "198.51.100.1", "198.51.100.2",
            "192.0.2.0/24", "198.51.100.0/24", "127.0.0.1", 24, "-4")
V6 = Family("v6", socket.AF_INET6, "2001:db8:1::2", "2001:db8:1::1", "2001:db8:2::1", "2001:db8:2::2",
            "2001:db8:1::/64", "2001:db8:2::/64", "::1", 64, "-6")
FAMILIES = (V4, V6)


def run(argv, check=True, **kwargs):
    kwargs.setdefault("timeout", 120)
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, **kwargs)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(map(str, argv))}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done


class Namespace:
    def __init__(self, name):
        run(["ip", "netns", "add", name])
        self.name = name
        self.path = f"/run/netns/{name}"

    @contextlib.contextmanager
    def entered(self):
        """The calling thread is inside; sockets made there stay there."""
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        target = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._set(target)
            yield self
        finally:
            self._set(own)
            os.close(own)
            os.close(target)

    @staticmethod
    def _set(fd):
        if _libc.setns(fd, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")

    def argv(self, *args):
        return ["setpriv", "--pdeathsig", "KILL", "nsenter", f"--net={self.path}", "--", *map(str, args)]

    def run(self, *args, check=True, **kwargs):
        return run(self.argv(*args), check=check, **kwargs)

    def popen(self, *args, **kwargs):
        return subprocess.Popen(self.argv(*args), **kwargs)

    def ip(self, *commands, check=True):
        run(["ip", "-n", self.name, "-batch", "-"], input="\n".join(commands) + "\n", check=check)

    def nft(self, rules):
        self.run("nft", "-f", "-", input=rules.replace("}", "\n}\n"))

    def sysctl(self, key, value=None):
        path = "/proc/sys/" + key
        with self.entered():
            if value is None:
                return pathlib.Path(path).read_text().strip()
            pathlib.Path(path).write_text(str(value))
            return str(value)

    def socket(self, af, kind=socket.SOCK_STREAM, proto=0):
        with self.entered():
            return socket.socket(af, kind, proto)

    def listen(self, family, port=0, address=None, backlog=512):
        sock = self.socket(family.af)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address or "", port))
        sock.listen(backlog)
        sock.settimeout(10)
        return sock

    def connect(self, family, address, port, timeout=10, source_port=0, prepare=None):
        sock = self.socket(family.af)
        sock.settimeout(timeout)
        try:
            if source_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind(("", source_port))
            if prepare:
                prepare(sock)
            sock.connect((address, port))
        except BaseException:
            sock.close()
            raise
        return sock

    def close(self):
        run(["ip", "netns", "del", self.name], check=False)
