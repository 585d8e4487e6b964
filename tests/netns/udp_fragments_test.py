# SPDX-License-Identifier: Apache-2.0
"""U2: fragments in any order, twice, and some of them never."""
import itertools
import os
import random
import socket
import struct

import harness
import packets
import product
import udp_lab
from udp_case import UdpCase

FRAGMENT = 1200  # a multiple of 8
NEXT_FRAGMENT = 44
SIZE = 3 * FRAGMENT - 100
LARGE = (4_000, 20_000, 65_507)  # the last is IPv4's limit


def datagram(family, source, destination, sport, dport, payload):
    """The UDP header and what follows, with its checksum."""
    length = 8 + len(payload)
    if family is harness.V4:
        pseudo = socket.inet_aton(source) + socket.inet_aton(destination) + struct.pack("!BBH", 0, 17, length)
    else:
        pseudo = (socket.inet_pton(family.af, source) + socket.inet_pton(family.af, destination)
                  + struct.pack("!IHBB", length, 0, 0, 17))
    head = struct.pack("!HHH", sport, dport, length)
    check = packets.checksum(pseudo + head + b"\0\0" + payload) or 0xffff
    return head + struct.pack("!H", check) + payload


def fragments(family, source, destination, body, ident):
    """IP packets that make up `body` together."""
    found = []
    for at in range(0, len(body), FRAGMENT):
        part = body[at:at + FRAGMENT]
        more = at + FRAGMENT < len(body)
        if family is harness.V4:
            found.append(struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(part), ident & 0xffff,
                                     at // 8 | more << 13, 64, 17, 0, socket.inet_aton(source),
                                     socket.inet_aton(destination)) + part)
        else:
            found.append(struct.pack("!IHBB", 6 << 28, 8 + len(part), NEXT_FRAGMENT, 64)
                         + socket.inet_pton(family.af, source) + socket.inet_pton(family.af, destination)
                         + struct.pack("!BBHI", 17, 0, at | more, ident) + part)
    return found


def orders_of(size):
    """In which to send the many fragments of a large datagram."""
    order = list(range(-(-(8 + size) // FRAGMENT)))
    middle = len(order) // 2
    swapped = [*order[:middle - 1], middle, middle - 1, *order[middle + 1:]]
    return order, order[::-1], swapped, random.Random(size).sample(order, len(order))


def large_parts():
    """Without the first, the middle, the last. No more: the kernel keeps them for 30 s, 4 MB of them at most."""
    for size in LARGE:
        order, backward, *_ = orders_of(size)
        for missing, sent in ((0, backward), (len(order) // 2, backward), (len(order) - 1, order)):
            yield size, [n for n in sent if n != missing]


class Fragments(UdpCase):
    def setUp(self):
        super().setUp()
        self.idents = itertools.count(1000)
        self.raw = {}
        for space in (self.lab.client, self.lab.server):
            for family in harness.FAMILIES:
                sock = space.socket(family.af, socket.SOCK_RAW, socket.IPPROTO_RAW)
                self.addCleanup(sock.close)
                self.raw[space, family] = sock

    def send(self, space, family, source, destination, payload, order):
        """`order`: which fragments, and when."""
        body = datagram(family, source[0], destination[0], source[1], destination[1], payload)
        parts = fragments(family, source[0], destination[0], body, next(self.idents))
        for n in order:
            self.raw[space, family].sendto(parts[n], (destination[0], 0))

    def pair(self, family):
        """A client's and a server's socket that have heard of each other, and whom the server saw."""
        client, server = self.socket(family), self.servers[family]
        client.sendto(b"hello", (family.server, 5310))
        _, seen = self.heard(server, client, family)
        server.sendto(b"hello", seen)
        client.recv(100)
        return client, server, seen

    def open_servers(self):
        self.servers = {family: self.far_socket(family, 5310) for family in harness.FAMILIES}

    def up(self, family, client, order, size=SIZE):
        payload = os.urandom(size)
        own = (family.client, client.getsockname()[1])
        self.send(self.lab.client, family, own, (family.server, 5310), payload, order)
        return payload

    def down(self, family, seen, order, size=SIZE):
        payload = os.urandom(size)
        self.send(self.lab.server, family, (family.server, 5310), seen, payload, order)
        return payload

    def assert_any_order(self, family, client, server, seen, orders, size=SIZE):
        before = self.total("udp_datagrams_up"), self.total("udp_datagrams_down")
        for order in orders:
            with self.subTest(family=family.name, size=size, order=order):
                self.assertEqual(self.up(family, client, order, size), server.recv(65536))
                self.assertEqual(self.down(family, seen, order, size), client.recv(65536))
        self.assertEqual((self.total("udp_datagrams_up"), self.total("udp_datagrams_down")),
                         (before[0] + len(orders), before[1] + len(orders)), "direct, not by the proxy")

    def test_U2_fragments_in_any_order(self):
        self.open_servers()
        for family, _, case in self.each_way():
            with case:
                client, server, seen = self.pair(family)
                self.assert_any_order(family, client, server, seen, [
                    (0, 1, 2), *itertools.permutations(range(3)), (0, 0, 1, 1, 2), (2, 2, 0, 1)])
                for size in LARGE:
                    self.assert_any_order(family, client, server, seen, orders_of(size), size)
            self.assertEqual(self.total("udp_dropped"), 0)

    def test_U2_fragments_in_any_order_where_only_some_ports_are_proxied(self):
        """The ports are known from the first fragment only; until it comes, what the last one said counts."""
        self.open_servers()
        for source in ("masquerade", "preserve"):
            self.start_udp(product.udp_rule(match={"dport": 5310}), source=source)
            for family in harness.FAMILIES:
                client, server, seen = self.pair(family)
                self.assert_any_order(family, client, server, seen, [(0, 1, 2), *itertools.permutations(range(3))])
                for size in LARGE:
                    self.assert_any_order(family, client, server, seen, orders_of(size), size)

    def test_U2_a_missing_fragment(self):
        self.open_servers()
        for family, _, case in self.each_way():
            with case:
                client, server, seen = self.pair(family)
                self.assertEqual(self.up(family, client, (0, 1, 2)), server.recv(65536))
                sessions, descriptors = self.total("udp_sessions"), self.descriptors()
                with (udp_lab.Capture(self.lab.gateway, "wan0") as wan,
                      udp_lab.Capture(self.lab.gateway, "lan0") as lan):
                    for missing in ((0, 1), (0, 2), (1, 2), (2, 0), (0,), (1,), (2,)):
                        self.up(family, client, missing)
                        self.down(family, seen, missing)
                    for size, parts in large_parts():
                        self.up(family, client, parts, size)
                        self.down(family, seen, parts, size)
                    stranger = self.socket(family)
                    self.up(family, stranger, (0, 1))
                    self.assert_silence(server, 0.5)
                    self.assert_silence(client, 0.1)
                    self.assertEqual((self.sent_on(wan), self.sent_on(lan)), (0, 0), "parts of a datagram were sent on")
                    self.assertEqual((self.total("udp_sessions"), self.descriptors()), (sessions, descriptors))
                    for size in (SIZE, *LARGE):
                        backward = orders_of(size)[1]
                        self.assertEqual(self.up(family, client, backward, size), server.recv(65536))
                        self.assertEqual(self.down(family, seen, backward, size), client.recv(65536))
                        for tap in (wan, lan):
                            self.assertGreater(self.sent_on(tap), size // 1500, "whole, but not seen")

    @staticmethod
    def sent_on(tap):
        """UDP packets, also fragments, that left by the device."""
        count = 0
        tap.sock.settimeout(0)
        try:
            while True:
                frame, address = tap.sock.recvfrom(65536)
                if address[2] != packets.OUTGOING:
                    continue
                proto = frame[23] if frame[12:14] == b"\x08\x00" else frame[20] if frame[12:14] == b"\x86\xdd" else 0
                count += proto in (socket.IPPROTO_UDP, NEXT_FRAGMENT)
        except BlockingIOError:
            return count


if __name__ == "__main__":
    harness.main()
