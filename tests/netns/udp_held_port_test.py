# SPDX-License-Identifier: Apache-2.0
"""Servers whose port a service of the gateway holds: their answers still leave, by raw sockets, and are the same."""
import json
import os
import socket
import struct

import harness
import packets
import product
import udp_case
import udp_icmp_test
import udp_mtu_test
import udp_test
from udp_case import IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, PMTUDISC_DO, PMTUDISC_DONT, UdpCase, option


class Holding(UdpCase):
    """A service of the gateway has a port on all addresses and shares it with nobody; servers have that port too."""

    def start_udp(self, *rules, **options):
        """These are about the worker's answers, not those that tc sends."""
        super().start_udp(*(rules or [product.udp_rule(forward="stack")]), **options)

    def hold(self, *ports):
        self.tpx.stop()  # its sockets would keep the service from having the port
        return self.peer(self.lab.gateway, *ports)

    def peer(self, space, *ports):
        peer = harness.Peer(space, *ports, script="udp_peer.py")
        self.addCleanup(peer.close)
        peer.read()
        return peer


class TowardsClient(Holding, udp_mtu_test.TowardsClient):
    def setUp(self):
        super().setUp()
        self.hold(5310)


class BesideService(Holding, udp_test.TrainCase):
    HELD = 53
    SOME_SIZES = (0, 100, 1472, 4000, 65_507)

    def assert_sizes(self, family):
        sock = self.socket(family)
        for size in self.SOME_SIZES:
            data = b"E" * min(size, 1) + os.urandom(max(0, size - 1))
            self.assertEqual(self.ask(sock, family, data, self.HELD), data, size)

    def raw_sockets(self):
        """How many there are of UDP; bytes that wait in any."""
        lines = [line.split() for name in ("raw", "raw6")
                 for line in self.lab.gateway.run("cat", f"/proc/net/{name}").stdout.splitlines()[1:]]
        return (sum(int(line[1].split(":")[1], 16) == socket.IPPROTO_UDP for line in lines),
                sum(int(line[4].split(":")[1], 16) for line in lines))

    def test_U1_servers_answer_from_a_port_that_the_gateway_holds(self):
        self.peer(self.lab.server, self.HELD)
        for port, held in ((f"{self.HELD}", harness.FAMILIES), (f"{self.HELD}/4", (harness.V4,)),
                           (f"{self.HELD}/6", (harness.V6,))):
            service = self.hold(port)
            own = []
            for family, source, _ in self.each_way():
                with self.subTest(port=port, source=source, family=family.name):
                    before = self.total("udp_replies_raw")
                    self.assert_sizes(family)
                    self.assertEqual(self.total("udp_replies_raw") - before,
                                     len(self.SOME_SIZES) if family in held else 0)
                    if family in held:
                        self.assertEqual(self.raw_sockets()[1], 0, "they are not for receiving")
                        sock = self.socket(family)
                        sock.sendto(b"W", (family.lan, self.HELD))
                        own.append([family.client, sock.getsockname()[1]])
                        self.assertEqual(json.loads(sock.recv(100)), own[-1], "the gateway's own service")
                self.assertEqual(self.total("udp_reply_refused") + self.total("udp_dropped"), 0)
            self.assertEqual(service.ask("stats")["senders"], [[*client, 1] for client in own])
            service.close()

    def test_U1_redirected_to_the_service_itself(self):
        service = self.hold(self.HELD)
        self.start_udp(*(product.udp_rule({"redirect": f"{target}:{self.HELD}"}, f.name, {"dst": f.server_net})
                         for f, target in ((harness.V4, "127.0.0.1"), (harness.V6, "[::1]"))))
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                self.assert_sizes(family)
                self.assertEqual(self.who(self.socket(family), family, self.HELD)[0], family.loopback)
        self.assertEqual({sender for sender, *_ in service.ask("stats")["senders"]},
                         {family.loopback for family in harness.FAMILIES})
        self.assertEqual(self.total("udp_replies_raw"), 2 * (len(self.SOME_SIZES) + 1))

    def test_U3_trains_from_a_port_that_the_gateway_holds(self):
        self.hold(5310)
        servers = {family: self.far_socket(family, 5310) for family in harness.FAMILIES}
        for family, _, case in self.each_way():
            with case:
                self.exchange(self.socket(family), servers[family], (family.server, 5310))
            self.assertGreater(self.total("udp_replies_raw"), len(udp_test.TRAINS))
            self.assertEqual(self.total("udp_dropped"), 0)

    def test_U5_server_learns_that_the_client_is_gone(self):
        self.hold(5310)
        udp_icmp_test.Unreachable.test_U5_server_learns_that_the_client_is_gone(self)
        self.assertGreater(self.total("udp_replies_raw"), 0)

    def ip_header(self, tap, family):
        """Of the next answer that comes to the client, without what is different in each packet."""
        while True:
            packet = bytearray(tap.sock.recv(65536)[14:])
            if family is harness.V4 and packet[0] == 0x45 and packet[9] == socket.IPPROTO_UDP:
                packet[4:6] = packet[10:12] = b"--"  # identification, checksum
                header, ports = packet[:20], packet[20:24]
            elif family is harness.V6 and packet[0] >> 4 == 6 and packet[6] == socket.IPPROTO_UDP:
                packet[1:4] = bytes([packet[1] & 0xf0]) + b"--"  # flow label
                header, ports = packet[:40], packet[40:44]
            else:
                continue
            if ports[:2] == struct.pack("!H", 5310):
                return bytes(header)

    def test_U12_the_headers_are_those_of_other_answers(self):
        servers = {family: self.far_socket(family, 5310) for family in harness.FAMILIES}
        for family in harness.FAMILIES:
            found = []
            for held in (False, True):
                service = self.hold(5310) if held else None
                self.start_udp()
                before = self.total("udp_replies_raw")
                client = self.socket(family)
                client.sendto(b"hello", (family.server, 5310))
                _, upstream = self.heard(servers[family], client, family)
                headers = []
                with packets.Tap(self.lab.client, "c0") as tap:
                    tap.sock.settimeout(5)
                    for discover in (PMTUDISC_DONT, PMTUDISC_DO):
                        for traffic_class, hops in ((0xb8, 64), (0xb9, 63), (0x03, 255), (0x00, 100), (0x02, 3)):
                            option(servers[family], IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, discover)
                            option(servers[family], udp_case.IP_TOS, socket.IPV6_TCLASS, traffic_class)
                            option(servers[family], udp_case.IP_TTL, socket.IPV6_UNICAST_HOPS, hops)
                            servers[family].sendto(b"answer", upstream)
                            headers.append(self.ip_header(tap, family))
                            self.assertEqual(client.recv(100), b"answer")
                found.append(headers)
                self.assertEqual(self.total("udp_replies_raw") - before, len(headers) if held else 0)
                if held:
                    service.close()
            self.assertEqual(*found)

    def test_U8_raw_sockets_are_as_few_as_others_and_take_nothing(self):
        self.hold(self.HELD)
        limit, count = 3, 10
        servers = {}
        for family in harness.FAMILIES:
            for n in range(10, 10 + count):
                address = family.server.removesuffix("2") + str(n)
                self.lab.address(self.lab.server, "s0", family, address)
                servers[self.far_socket(family, self.HELD, address)] = family
        self.start_udp(product.udp_rule(forward="stack"), proxy={"workers": 1, "udp_reply_sockets": limit})
        clients = {family: self.socket(family) for family in harness.FAMILIES}
        for _ in range(3):
            for server, family in servers.items():
                clients[family].sendto(b"question", server.getsockname())
                server.sendto(b"answer", self.heard(server, clients[family], family)[1])
                self.assertEqual(clients[family].recvfrom(100), (b"answer", server.getsockname()))
        self.assertEqual(self.total("udp_reply_sockets"), limit)
        self.assertEqual(self.raw_sockets(), (limit, 0))
        self.assertEqual(self.total("udp_reply_sockets_replaced"), 3 * 2 * count - limit)


if __name__ == "__main__":
    harness.main()
