# SPDX-License-Identifier: Apache-2.0
"""Many client endpoints in one process of a namespace. Commands on stdin, one JSON document per line:

open   {addresses: [...], ports: N, first: port, kind: echo | dns}
                                       sockets on N ports of each address -> {sockets}
ask    {to: [address, port], window: N, only: N, patience: s}
                                       a datagram from each socket (or the first N), with N answers outstanding ->
                                       {answered, strangers, wrong, silent, errors}
tell   {to: [address, port], only: N}  one datagram each, to which nothing comes back -> {told}
flood  {prefix: network, to: [address, port], count: N, rate: N per second}
                                       one way, each from an address and port of its own -> {told}
close                                  -> {sockets: 0}

What an answer has to be: echo, the datagram itself; dns, a response with the query's number and an address.
A stranger is an answer that came from another address or port than the one that was asked.
"""
import collections
import ipaddress
import json
import random
import selectors
import socket
import struct
import sys
import time

IP_FREEBIND, IPV6_FREEBIND = 15, 78
SILENT = b"S"
FORGED = 50_000


def say(document):
    print(json.dumps(document), flush=True)


def family_of(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def endpoint(address, port):
    sock = socket.socket(family_of(address), socket.SOCK_DGRAM)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
    sock.setblocking(False)
    sock.bind((address, port))
    return sock


def echo_query(number):
    return b"E%08d" % number


def dns_query(number):
    """For an A record below example.test, of a name that no cache knows."""
    name = b"".join(bytes([len(label)]) + label for label in (b"n%d" % number, b"example", b"test")) + b"\0"
    return struct.pack("!HHHHHH", number & 0xffff, 0x0100, 1, 0, 0, 0) + name + struct.pack("!HH", 1, 1)


def is_dns_answer(query, answer):
    if len(answer) < 12 or answer[:2] != query[:2]:
        return False
    _, flags, _, answers, _, _ = struct.unpack("!HHHHHH", answer[:12])
    return flags & 0x800f == 0x8000 and answers > 0


class Asking:
    """One question of each socket, no more than `window` of them at a time."""

    def __init__(self, crowd, socks, to, window, patience):
        self.crowd, self.to, self.patience = crowd, tuple(to), patience
        self.window = window
        self.left = iter(socks)
        self.open = collections.OrderedDict()  # socket -> (query, deadline)
        self.found = collections.Counter()

    def run(self):
        self.fill()
        while self.open:
            for key, _ in self.crowd.selector.select(0.2):
                self.take(key.fileobj)
            now = time.monotonic()
            while self.open and next(iter(self.open.values()))[1] < now:
                self.found["silent"] += 1
                self.forget(next(iter(self.open)))
            self.fill()
        return {kind: self.found[kind] for kind in ("answered", "strangers", "wrong", "silent", "errors")}

    def fill(self):
        while len(self.open) < self.window and (sock := next(self.left, None)) is not None:
            query = self.crowd.query()
            try:
                sock.sendto(query, self.to)
            except OSError:
                self.found["errors"] += 1
                continue
            self.open[sock] = (query, time.monotonic() + self.patience)
            self.crowd.selector.register(sock, selectors.EVENT_READ)

    def forget(self, sock):
        del self.open[sock]
        self.crowd.selector.unregister(sock)

    def take(self, sock):
        query, _ = self.open[sock]
        try:
            answer, sender = sock.recvfrom(65536)
        except OSError:
            self.found["errors"] += 1
            return self.forget(sock)
        if sender[:2] != self.to:
            self.found["strangers"] += 1
        elif self.crowd.is_answer(query, answer):
            self.found["answered"] += 1
        else:
            self.found["wrong"] += 1
        self.forget(sock)


class Crowd:
    def __init__(self):
        self.selector = selectors.DefaultSelector()
        self.socks = []
        self.number = 0
        self.kind = "echo"

    def query(self):
        self.number += 1
        return dns_query(self.number) if self.kind == "dns" else echo_query(self.number)

    def is_answer(self, query, answer):
        return is_dns_answer(query, answer) if self.kind == "dns" else query == answer

    def open(self, addresses, ports, first=20_000, kind="echo"):
        self.kind = kind
        self.socks += [endpoint(address, first + n) for address in addresses for n in range(ports)]
        return {"sockets": len(self.socks)}

    def ask(self, to, window=100, only=None, patience=10):
        return Asking(self, self.socks[:only], to, window, patience).run()

    def tell(self, to, only=None):
        told = 0
        for sock in self.socks[:only]:
            told += bool(sock.sendto(SILENT, tuple(to)))
            if told % 100 == 0:
                time.sleep(0.01)
        return {"told": told}

    def flood(self, prefix, to, count, rate):
        """By raw sockets, which need no binding. Senders come again after FORGED others."""
        network, target, told = ipaddress.ip_network(prefix), ipaddress.ip_address(to[0]).packed, 0
        packets = [forged(network, target, to[1]) for _ in range(min(count, FORGED))]
        with socket.socket(family_of(to[0]), socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
            begun = time.monotonic()
            while told < count:
                for _ in range(min(count - told, max(1, rate // 500))):
                    raw.sendto(packets[told % FORGED], (to[0], 0))
                    told += 1
                time.sleep(max(0, begun + told / rate - time.monotonic()))
        return {"told": told, "rate": int(told / (time.monotonic() - begun))}

    def close(self):
        while self.socks:
            self.socks.pop().close()
        return {"sockets": 0}


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff or 0xffff


def datagram(source, sport, target, dport, payload, hops=64):
    """An IP packet; the kernel fills in the checksum of IPv4's header. Addresses in bytes."""
    length = 8 + len(payload)
    udp = struct.pack("!HHHH", sport, dport, length, 0)
    pseudo = source + target + struct.pack("!IBBBB", length, 0, 0, 0, socket.IPPROTO_UDP)
    udp = udp[:6] + struct.pack("!H", checksum(pseudo + udp + payload)) + payload
    if len(source) == 16:
        return struct.pack("!IHBB", 6 << 28, length, socket.IPPROTO_UDP, hops) + source + target + udp
    return struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 0, 0, hops, socket.IPPROTO_UDP, 0) + source + target + udp


def forged(network, target, port):
    source = network[random.randrange(1, network.num_addresses - 1)].packed
    return datagram(source, random.randrange(1024, 65536), target, port, SILENT)


def main():
    crowd = Crowd()
    say({"ready": True})
    for line in sys.stdin:
        command = json.loads(line)
        say(getattr(crowd, command.pop("do"))(**command))


if __name__ == "__main__":
    main()
