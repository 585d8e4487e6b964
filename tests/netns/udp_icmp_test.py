# SPDX-License-Identifier: Apache-2.0
"""U5, U12: what the network says about a client's datagrams reaches the client, as it would without the proxy."""
import socket

import harness
import udp_case
from udp_case import CLOSED_PORT, AsDirect, option


class Unreachable(AsDirect):
    def test_U5_port_unreachable(self):
        far = self.add_far()
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                error = self.compare(
                    lambda f, n: self.error_of(f, self.add_far_address(far, f, n)), family)
                self.assertEqual((error.errno, error.offender), ("ECONNREFUSED", "destination"))

    def test_U5_connected_socket_fails_without_error_queue(self):
        for family, source, case in self.each_way():
            with case:
                sock = self.socket(family)
                sock.connect((family.server, CLOSED_PORT))
                sock.send(b"x")
                with self.assertRaises(ConnectionRefusedError):
                    sock.recv(10)

    def test_U5_session_survives_an_error(self):
        """A closed port is one destination of many."""
        for family, source, case in self.each_way():
            with case:
                sock = self.socket(family)
                before = self.who(sock, family)
                for _ in range(5):
                    sock.sendto(b"x", (family.server, CLOSED_PORT))
                    self.assertEqual(self.who(sock, family), before)

    def test_U5_unreachable_from_a_router(self):
        self.add_far()
        for family in harness.FAMILIES:
            for kind, numbers in (("unreachable", ("EHOSTUNREACH", "ENETUNREACH")),
                                  ("prohibit", ("EHOSTUNREACH", "EACCES"))):
                def probe(f, n, kind=kind):
                    address = udp_case.far_address(f, n)
                    self.lab.server.ip(f"route replace {kind} {address}")
                    return self.error_of(f, address)

                with self.subTest(family=family.name, kind=kind):
                    error = self.compare(probe, family)
                    self.assertIn(error.errno, numbers)
                    self.assertEqual(error.offender, family.server)

    def test_U5_next_hop_is_absent(self):
        """The gateway itself finds nobody at the address."""
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                net = family.server.removesuffix("2")

                def probe(f, n, net=net):
                    error = self.error_of(f, net + str(n))
                    self.assertIn(error.offender, (f.lan, f.wan))  # either is the gateway
                    return error._replace(offender=None)

                error = self.compare(probe, family)
                self.assertEqual(error.errno, "EHOSTUNREACH")

    def test_U5_server_learns_that_the_client_is_gone(self):
        for family, source, case in self.each_way():
            with case:
                client, server = self.socket(family), self.far_socket(family, 5310)
                client.sendto(b"hello", (family.server, 5310))
                _, seen = self.heard(server, client, family)
                server.connect(seen)
                client.close()
                harness.wait_until(lambda s=server: udp_case.is_refused(s), "the server gets an ICMP error")
                self.assertEqual(self.total("udp_sessions"), 0)
                server.close()


class Headers(AsDirect):
    @staticmethod
    def header_of(sock):
        """(data, sender, traffic class, hop limit) of the next datagram."""
        data, controls, _, sender = sock.recvmsg(65536, 1024)
        values = {kind: value[0] for _, kind, value in controls}
        v4 = sock.family == socket.AF_INET
        return data, sender[:2], values[udp_case.IP_TOS if v4 else socket.IPV6_TCLASS], \
            values[udp_case.IP_TTL if v4 else socket.IPV6_HOPLIMIT]

    @staticmethod
    def want_header(sock):
        option(sock, udp_case.IP_RECVTOS, socket.IPV6_RECVTCLASS)
        option(sock, udp_case.IP_RECVTTL, socket.IPV6_RECVHOPLIMIT)

    def send_with(self, sock, data, to, traffic_class, hops):
        option(sock, udp_case.IP_TOS, socket.IPV6_TCLASS, traffic_class)
        option(sock, udp_case.IP_TTL, socket.IPV6_UNICAST_HOPS, hops)
        sock.sendto(data, to)

    def test_U12_traffic_class_and_hop_limit(self):
        servers = {family: self.far_socket(family, 5310) for family in harness.FAMILIES}
        for family, source, _ in self.each_way():
            client, server = self.socket(family), servers[family]
            self.want_header(client)
            self.want_header(server)
            # DSCP EF, AF41, CS0 each with ECN values; hop limits from the least that arrives
            for traffic_class, hops in ((0xb8, 64), (0xb9, 63), (0x8a, 2), (0x03, 255), (0x00, 100), (0x02, 64)):
                with self.subTest(source=source, family=family.name, traffic_class=traffic_class, hops=hops):
                    self.send_with(client, b"up", (family.server, 5310), traffic_class, hops)
                    data, sender, *header = self.header_of(server)
                    self.assertEqual((data, header), (b"up", [traffic_class, hops - 1]))
                    self.send_with(server, b"down", sender, traffic_class, hops)
                    data, sender, *header = self.header_of(client)
                    self.assertEqual((data, header), (b"down", [traffic_class, hops - 1]))
                    self.assertEqual(sender, (family.server, 5310))

    def test_U12_trains_keep_different_headers_apart(self):
        self.start_udp()
        for family in harness.FAMILIES:
            client, server = self.socket(family), self.far_socket(family, 5310)
            self.want_header(server)
            sent = [(bytes([n]) * 100, n % 4 << 2 | n % 3, 30 + n % 5) for n in range(60)]
            for data, traffic_class, hops in sent:
                self.send_with(client, data, (family.server, 5310), traffic_class, hops + 1)
            got = [self.header_of(server) for _ in sent]
            self.assertEqual([(data, traffic_class, hops) for data, _, traffic_class, hops in got], sent)
            self.assert_arrives("udp", udp_case.own_end(client, family), (family.server, 5310))

    def test_U12_traceroute(self):
        far = self.add_far()
        for family in harness.FAMILIES:
            def probe(f, n):
                address = self.add_far_address(far, f, n)
                return [self.error_of(f, address, prepare=lambda s, h=hops: option(
                    s, udp_case.IP_TTL, socket.IPV6_UNICAST_HOPS, h)) for hops in (1, 2, 3)]

            with self.subTest(family=family.name):
                way = self.compare(probe, family)
                self.assertEqual([e.offender for e in way], [family.lan, family.server, "destination"])


if __name__ == "__main__":
    harness.main()
