# SPDX-License-Identifier: Apache-2.0
"""U1 to U8: datagrams arrive whole, unchanged, in order, from where they should, and nothing else does."""
import hashlib
import json
import os
import socket
import struct

import harness
import udp_case
from udp_case import IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, OTHER_PORT, PMTUDISC_DO, PMTUDISC_DONT, PORT, UdpCase, option

SIZES = (0, 1, 1472, 1473, 4000, 20_000, 65_507)
ADDRESSES = 40
# Trains: the size of a segment, how many of it, that of a shorter one behind them.
TRAINS = ((1400, 40, 77), (1200, 50, 0), (1, 64, 0), (500, 100, 3), (1, 128, 0), (1452, 2, 1451), (1000, 1, 999),
          (40, 64, 39), (1452, 44, 0), (1452, 45, 12), (700, 63, 699))


class Udp(UdpCase):
    def test_U1_masquerade_and_preserve(self):
        for family, source, case in self.each_way():
            with case:
                sock = self.socket(family)
                seen = self.who(sock, family)
                if source == "preserve":
                    self.assertEqual(seen, (family.client, sock.getsockname()[1]))
                else:
                    self.assertEqual(seen[0], family.wan)

    def test_U1_answers_come_from_the_address_that_was_asked(self):
        """Many addresses of a server, each asked by two of a client's ports."""
        for family in harness.FAMILIES:
            for n in range(10, 10 + ADDRESSES):
                self.lab.address(self.lab.server, "s0", family, self.server_address(family, n))
        servers = {family: [self.far_socket(family, 5310, self.server_address(family, n))
                            for n in range(10, 10 + ADDRESSES)] for family in harness.FAMILIES}
        for family, source, case in self.each_way():
            with case:
                clients = [self.socket(family) for _ in range(2)]
                senders = {client: set() for client in clients}
                for server in servers[family]:
                    for client in clients:
                        client.sendto(b"question", server.getsockname())
                        data, sender = self.heard(server, client, family)
                        self.assertEqual(data, b"question")
                        senders[client].add(sender)
                        server.sendto(b"answer", sender)
                        data, sender = client.recvfrom(100)
                        self.assertEqual((data, sender), (b"answer", server.getsockname()))
                self.assertEqual([len(s) for s in senders.values()], [1, 1], "one upstream port per client port")
                self.assertEqual(self.total("udp_sessions"), 2 if family is harness.V4 else 4)

    @staticmethod
    def server_address(family, n):
        return family.server.removesuffix("2") + str(n)

    def test_U2_sizes_from_nothing_to_the_largest(self):
        for family, source, _ in self.each_way():
            sock = self.socket(family)
            for size in SIZES:
                with self.subTest(source=source, family=family.name, size=size):
                    data = b"E" * min(size, 1) + os.urandom(max(0, size - 1))
                    self.assertEqual(self.ask(sock, family, data), data)
            self.assertEqual(self.total("udp_dropped"), 0)

    def test_U7_what_is_for_many_or_for_the_link_is_never_proxied(self):
        gateway = json.loads(self.lab.gateway.run("ip", "-j", "link", "show", "lan0").stdout)[0]["address"]
        self.lab.client.ip("addr add 169.254.7.2/16 dev c0", "route add 224.0.0.0/4 dev c0",
                           f"neigh add 169.254.7.1 lladdr {gateway} dev c0",
                           f"neigh add fe80::7 lladdr {gateway} dev c0")
        self.start_udp({"name": "all", "match": {}, "action": "proxy"}, default="proxy")
        with self.lab.client.entered():
            index = socket.if_nametoindex("c0")
        sock = self.socket(harness.V4)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 8)
        sock6 = self.socket(harness.V6)
        sock6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 8)
        for address in ("224.0.0.251", "239.1.2.3", "255.255.255.255", "192.0.2.255", "169.254.7.1", "192.0.2.1"):
            sock.sendto(b"x", (address, PORT))
            self.assert_explained("direct", (harness.V4.client, 50000), (address, PORT), "udp")
        for address in ("ff02::fb", "ff05::2", "ff0e::2", "fe80::7", "2001:db8:1::1"):
            sock6.sendto(b"x", (address, PORT, 0, index))
            self.assert_explained("direct", (harness.V6.client, 50000), (address, PORT), "udp")
        # what is proxied still is, after them
        for family in harness.FAMILIES:
            self.assertEqual(self.who(self.socket(family), family)[0], family.wan)
        self.assertEqual(self.total("udp_sessions_total"), 2)
        self.assertEqual(self.total("udp_datagrams_up"), 2)
        self.assertEqual({sender for sender, *_ in self.server.ask("stats")["senders"]},
                         {family.wan for family in harness.FAMILIES})
        reasons = self.tpx.reasons()
        self.assertGreaterEqual(reasons["special_address"], 8)
        self.assertGreaterEqual(reasons["own_address"], 3)

    def test_U8_one_port_to_many_and_many_to_one(self):
        self.start_udp()
        for family in harness.FAMILIES:
            first, second = self.socket(family), self.socket(family)
            seen = {self.who(first, family), self.who(first, family, OTHER_PORT)}
            self.assertEqual(len(seen), 1, "endpoint-independent mapping: one upstream port per client port")
            self.assertEqual({address for address, _ in seen}, {family.wan})
            self.assertNotIn(self.who(second, family), seen)
            self.assertEqual(self.ask(first, family, b"Efirst"), b"Efirst")
            self.assertEqual(self.ask(second, family, b"Esecond"), b"Esecond")


class TrainCase(UdpCase):
    def setUp(self):
        super().setUp()
        self.number = 0

    def datagram(self, size):
        """Its number and hash where there is room."""
        self.number += 1
        body = struct.pack("!I", self.number) + os.urandom(max(0, size - 12))
        return (body + hashlib.sha256(body).digest()[:8])[:size] if size >= 12 else body[:size]

    def send_train(self, sock, to, size, count, last):
        if sock in self.clients:
            family = next(f for f in harness.FAMILIES if f.af == sock.family)
            self.assert_explained("proxy", udp_case.own_end(sock, family), to[:2], "udp", chosen=False)
        datagrams = [self.datagram(size) for _ in range(count)] + ([self.datagram(last)] if last else [])
        whole = b"".join(datagrams)
        while whole:  # the kernel takes 64 KB at once, and so many segments
            most = min(len(whole), size * min(64, 65_000 // size))
            sock.sendmsg([whole[:most]], [(socket.IPPROTO_UDP, udp_case.UDP_SEGMENT, struct.pack("=H", size))], 0, to)
            whole = whole[most:]
        return datagrams

    def assert_arrive(self, sock, sent):
        for number, expected in enumerate(sent):
            data = sock.recv(65536)
            self.assertEqual(data, expected, f"datagram {number} of {len(sent)}")

    def exchange(self, client, server, address, trains=TRAINS, back=True):
        client.sendto(b"hello", address)
        _, upstream = self.heard(server, client, next(f for f in harness.FAMILIES if f.af == client.family))
        for size, count, last in trains:
            with self.subTest(family=client.family.name, size=size, count=count, last=last):
                self.assert_arrive(server, self.send_train(client, address, size, count, last))
                if back:
                    self.assert_arrive(client, self.send_train(server, upstream, size, count, last))


class Trains(TrainCase):
    """What the sender gives to its kernel as a train (UDP_SEGMENT) arrives as the datagrams that it stands for."""

    def test_U3_trains_keep_boundaries_and_order(self):
        servers = {family: self.far_socket(family, 5310) for family in harness.FAMILIES}
        for family, _, case in self.each_way():
            with case:
                self.exchange(self.socket(family), servers[family], (family.server, 5310))
            self.assertEqual(self.total("udp_dropped"), 0)

    def test_U3_trains_of_many_sizes_one_behind_the_other(self):
        """The proxy gathers what it can and must not mix up what it gathers."""
        self.start_udp()
        for family in harness.FAMILIES:
            client, server = self.socket(family), self.far_socket(family, 5310)
            sent = []
            for size, count, last in TRAINS * 3:
                sent += self.send_train(client, (family.server, 5310), size, count, last)
                sent.append(self.datagram(size))
                client.sendto(sent[-1], (family.server, 5310))
                sent.append(b"")
                client.sendto(sent[-1], (family.server, 5310))
            self.assert_arrive(server, sent)
        self.assertGreater(self.total("udp_datagrams_up"), 0)

    def test_U3_single_datagrams_to_two_servers_keep_their_order(self):
        self.start_udp()
        for family in harness.FAMILIES:
            client = self.socket(family)
            servers = [self.far_socket(family, port) for port in (5310, 5311)]
            sent = ([], [])
            for n in range(400):
                to = n // 3 % 2
                sent[to].append(self.datagram(12 + n * 7 % 1400))
                client.sendto(sent[to][-1], (family.server, 5310 + to))
            for server, datagrams in zip(servers, sent):
                self.assert_arrive(server, datagrams)
                self.assert_arrives("udp", udp_case.own_end(client, family), (family.server, server.getsockname()[1]))
        self.assertGreater(self.total("udp_datagrams_up"), 0)

    def test_U3_single_datagrams_of_one_length_leave_as_trains(self):
        """What comes in fast is gathered; it arrives as it was sent."""
        self.start_udp()
        for family in harness.FAMILIES:
            client, server = self.socket(family), self.far_socket(family, 5310)
            before, sends = self.total("udp_datagrams_up"), self.total("udp_sends")
            sent = [self.datagram(1200) for _ in range(3000)]
            for datagram in sent:
                client.sendto(datagram, (family.server, 5310))
            self.assert_arrive(server, sent)
            self.assertEqual(self.total("udp_datagrams_up") - before, 3000)
            self.assertLess(self.total("udp_sends") - sends, 2000)

    def test_U4_a_way_out_that_cannot_segment(self):
        self.lab.gateway.run("ethtool", "-K", "wan0", "tx", "off", "gso", "off")
        self.lab.gateway.run("ethtool", "-K", "lan0", "tx", "off", "gso", "off")
        servers = {family: self.far_socket(family, 5310) for family in harness.FAMILIES}
        for family, _, case in self.each_way():
            with case:
                self.exchange(self.socket(family), servers[family], (family.server, 5310))
            self.assertEqual(self.total("udp_dropped"), 0)

    def test_U4_trains_too_large_for_the_way_out(self):
        """Each datagram fares for itself: without DF in fragments; with DF not, and the client is told."""
        self.lab.gateway.ip("link set wan0 mtu 1300")
        self.lab.server.ip("link set s0 mtu 1300")
        for number, source in enumerate(("masquerade", "preserve"), 10):
            self.start_udp(source=source)
            address = (harness.V4.server.removesuffix("2") + str(number), 5310)  # that no cache knows
            self.lab.address(self.lab.server, "s0", harness.V4, address[0])
            client, server = self.connected(harness.V4, *address), self.far_socket(harness.V4, 5310, address[0])
            before = self.total("udp_dropped")
            option(client, IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, PMTUDISC_DONT)
            self.exchange(client, server, address, ((1400, 20, 0), (1300, 10, 1299), (1200, 20, 7)), back=False)
            self.assertEqual(self.total("udp_dropped"), before)
            option(client, IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, PMTUDISC_DO)
            sent = self.send_train(client, address, 1400, 20, 60)
            error, payload, _ = self.wait_error(client)
            self.assertEqual((error.errno, error.info), ("EMSGSIZE", 1300))
            self.assertEqual(payload, sent[0][:len(payload)])
            self.assertEqual(server.recv(65536), sent[-1], "the last one of the train is small enough")

    def test_U4_trains_over_the_far_mtu_are_told_of_by_IPv6_too(self):
        self.lab.gateway.ip("link set wan0 mtu 1300")
        self.lab.server.ip("link set s0 mtu 1300")
        self.start_udp()
        client, server = self.connected(harness.V6, harness.V6.server, 5310), self.far_socket(harness.V6, 5310)
        option(client, IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, PMTUDISC_DO)
        self.send_train(client, (harness.V6.server, 5310), 1400, 20, 0)
        error, _, _ = self.wait_error(client)
        self.assertEqual((error.errno, error.info, udp_case.mtu_of(client)), ("EMSGSIZE", 1300, 1300))
        self.assert_silence(server)
        self.assertGreater(self.total("udp_dropped"), 0)


if __name__ == "__main__":
    harness.main()
