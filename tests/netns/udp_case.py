# SPDX-License-Identifier: Apache-2.0
"""What the UDP tests share: sockets of clients and servers, a router behind the gateway, ICMP errors."""
import collections
import errno
import ipaddress
import json
import pathlib
import socket
import struct
import time

import harness
import product

PORT, OTHER_PORT = 5300, 5301

MODES = (("bypass", "masquerade"), ("proxy", "masquerade"), ("proxy", "preserve"))
CLOSED_PORT = 5399

FAR_NET = {"v4": "203.0.113.0/24", "v6": "2001:db8:3::/64"}
FAR_ROUTER = ("203.0.113.1", "2001:db8:3::1")

# Not in Python's socket module.
IP_TOS, IP_TTL, IP_MTU_DISCOVER, IP_RECVERR, IP_RECVTTL, IP_RECVTOS, IP_MTU = 1, 2, 10, 11, 12, 13, 14
IPV6_MTU_DISCOVER, IPV6_MTU, IPV6_RECVERR, IPV6_DONTFRAG = 23, 24, 25, 62
PMTUDISC_DONT, PMTUDISC_WANT, PMTUDISC_DO, PMTUDISC_PROBE = range(4)
UDP_SEGMENT = 103
MSG_ERRQUEUE = 0x2000

# How the client's socket is told of an error. `info` is the MTU where there is one.
Error = collections.namedtuple("Error", "errno origin type code info offender")


def own_end(sock, family):
    """The address and port that a client's socket sends from."""
    address, port = sock.getsockname()[:2]
    return (family.client if address in ("0.0.0.0", "::") else address), port


def far_address(family, number):
    return f"203.0.113.{number}" if family is harness.V4 else f"2001:db8:3::{number:x}"


def option(sock, v4, v6, value=1):
    """The same option of either family."""
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, v4, value)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, v6, value)


def mtu_of(sock):
    """Of the path to where the socket is connected."""
    if sock.family == socket.AF_INET:
        return sock.getsockopt(socket.IPPROTO_IP, IP_MTU)
    return sock.getsockopt(socket.IPPROTO_IPV6, IPV6_MTU)


def take_error(sock):
    """One entry of the error queue: (Error, the quoted payload, its destination), or None."""
    timeout = sock.gettimeout()
    sock.setblocking(False)  # with a timeout Python waits for data, which an error is not
    try:
        payload, controls, _, to = sock.recvmsg(4096, 1024, MSG_ERRQUEUE)
    except BlockingIOError:
        return None
    finally:
        sock.settimeout(timeout)
    for level, kind, data in controls:
        if (level, kind) not in ((socket.IPPROTO_IP, IP_RECVERR), (socket.IPPROTO_IPV6, IPV6_RECVERR)):
            continue
        number, origin, type_, code, _, info, _ = struct.unpack("=IBBBBII", data[:16])
        offender = None
        if len(data) >= 24 and struct.unpack("=H", data[16:18])[0] == sock.family:
            at = 20 if sock.family == socket.AF_INET else 24
            offender = str(ipaddress.ip_address(data[at:at + (4 if sock.family == socket.AF_INET else 16)]))
        return Error(errno.errorcode[number], origin, type_, code, info, offender), payload, to[:2]
    raise AssertionError("an entry without an error")


def drain(sock, seconds=0):
    """Takes what has come, and what comes within so many seconds; up to an error that waits."""
    sock.settimeout(seconds)
    try:
        while True:
            sock.recv(65536)
    except (BlockingIOError, TimeoutError, ConnectionRefusedError):
        sock.settimeout(5)


def is_refused(sock):
    """Sends once more on a connected socket: whether it was told by then that nobody is there."""
    try:
        sock.send(b"anybody there?")
        time.sleep(0.05)
        return False
    except ConnectionRefusedError:
        return True


class Sockets(product.TestCase):
    """Sockets of clients and servers, and what they say to each other."""

    def setUp(self):
        super().setUp()
        self.clients = set()  # sockets of the client's

    def serve_udp(self, *ports, space=None):
        server = harness.Peer(space or self.lab.server, *(ports or (PORT, OTHER_PORT)), script="udp_peer.py")
        self.addCleanup(server.close)
        server.read()
        return server

    def socket(self, family, port=0, address=None, space=None, v6_only=1):
        """A client's, unless the namespace is another."""
        sock = (space or self.lab.client).socket(family.af, socket.SOCK_DGRAM)
        self.addCleanup(sock.close)
        if space in (None, self.lab.client):
            self.clients.add(sock)
        sock.settimeout(5)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        if family is harness.V6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6_only)
        sock.bind((address or "", port))
        return sock

    def ask(self, sock, family, data, port=PORT):
        """Sends a datagram and returns the answer."""
        sock.sendto(data, (family.server, port))
        answer, sender = sock.recvfrom(65536)
        self.assertEqual(sender[:2], (family.server, port), "the answer came from elsewhere")
        if data != b"W" and sock in self.clients:
            self.assert_arrives("udp", own_end(sock, family), (family.server, port))
        return answer

    def who(self, sock, family, port=PORT):
        """As whom the server sees the socket."""
        seen = tuple(json.loads(self.ask(sock, family, b"W", port)))
        self.lab.on_seen("udp", own_end(sock, family), False, (family.server, port), seen[0])
        return seen

    def assert_silence(self, sock, seconds=0.3):
        sock.settimeout(seconds)
        with self.assertRaises(TimeoutError):
            sock.recv(65536)
        sock.settimeout(5)

    def total(self, name):
        return self.tpx.totals().get(name, 0)


class UdpCase(Sockets):
    def setUp(self):
        super().setUp()
        self.server = self.serve_udp()

    def start_udp(self, *rules, **options):
        """Once more, where it runs already."""
        self.assertEqual(self.tpx.stop(), 0)
        self.tpx.start(product.config(list(rules) or [product.udp_rule()], **options))

    def far_socket(self, family, port=0, address=None):
        """A server's."""
        return self.socket(family, port, address, self.lab.server)

    def connected(self, family, address, port):
        """A client's socket that queues errors."""
        sock = self.socket(family)
        option(sock, IP_RECVERR, IPV6_RECVERR)
        sock.connect((address, port))
        return sock

    def wait_error(self, sock, seconds=10):
        return harness.wait_until(lambda: take_error(sock), "an ICMP error arrives", seconds)

    def heard(self, server, client, family):
        """What the server's socket got of the client's, and as whom it sees it."""
        data, seen = server.recvfrom(65536)
        address, port = server.getsockname()[:2]
        to = (family.server if address in ("0.0.0.0", "::") else address, port)
        self.lab.on_seen("udp", own_end(client, family), False, to, seen[0])
        return data, seen

    def each_way(self):
        """The proxy in both source modes, both families in each: (family, source, the subtest to be in)."""
        for source in ("masquerade", "preserve"):
            self.start_udp(source=source)
            for family in harness.FAMILIES:
                before = self.total("udp_datagrams_up")
                yield family, source, self.subTest(source=source, family=family.name)
                self.assertGreater(self.total("udp_datagrams_up"), before, "direct, not by the proxy")
                answer = self.assert_explained("proxy", (family.client, 50000), (family.server, PORT), "udp")
                if answer:
                    self.assertEqual(answer["steered"]["source"], source)

    def descriptors(self):
        return len(list((pathlib.Path("/proc") / str(self.tpx.pid) / "fd").iterdir()))

    def add_far(self, mtu=1500):
        """A network behind the server, which routes there; `mtu` is that of the link."""
        far = self.lab.namespace("f")
        self.lab.link(self.lab.server, "s1", far, "f0")
        for family, router in zip(harness.FAMILIES, FAR_ROUTER):
            self.lab.address(self.lab.server, "s1", family, router)
            self.lab.address(far, "f0", family, far_address(family, 2), router)
            self.lab.gateway.ip(f"route add {FAR_NET[family.name]} via {family.server}")
        self.lab.server.ip(f"link set s1 mtu {mtu}")
        far.ip(f"link set f0 mtu {mtu}")
        for space in (self.lab.server, far, self.lab.gateway):
            space.sysctl("net/ipv4/ip_forward", 1)
            space.sysctl("net/ipv6/conf/all/forwarding", 1)
            space.sysctl("net/ipv4/icmp_ratelimit", 0)
            space.sysctl("net/ipv6/icmp/ratelimit", 0)
        return far

    def add_far_address(self, far, family, number):
        """One that no cache of any host knows."""
        address = far_address(family, number)
        self.lab.address(far, "f0", family, address)
        return address


class AsDirect(UdpCase):
    """The client's view of a probe, direct and by the proxy: they have to be the same."""

    def compare(self, probe, family, prepare=lambda: None):
        """`probe(family, number)` says what the client saw; the number is new each time."""
        seen = {}
        for number, (action, source) in enumerate(MODES, 10):
            prepare()
            self.start_udp(product.udp_rule(action), source=source)
            before = self.relayed()
            seen[action, source] = probe(family, number)
            # A probe that the proxy never got would also look like a direct one.
            (self.assertGreater if action == "proxy" else self.assertEqual)(self.relayed(), before)
            self.assert_explained("proxy" if action == "proxy" else "direct", (family.client, 50000),
                                  (family.server, CLOSED_PORT), "udp")
        for mode in MODES[1:]:
            self.assertEqual(seen[mode], seen[MODES[0]], mode)
        return seen[MODES[0]]

    def relayed(self):
        return self.total("udp_datagrams_up") + self.total("hops_exceeded")

    def error_of(self, family, address, data=b"S probe", port=CLOSED_PORT, prepare=lambda _: None):
        """Sends a datagram; the error that the client is told, with the names of what differs between probes."""
        sock = self.connected(family, address, port)
        prepare(sock)
        sock.send(data)
        error, payload, to = self.wait_error(sock)
        self.assertEqual(to, (address, port), "the error is about another datagram")
        self.assertEqual(payload, data[:len(payload)], "the quote is not the client's datagram")
        if error.offender == address:
            error = error._replace(offender="destination")
        return error
