# SPDX-License-Identifier: Apache-2.0
"""forward: fib of UDP that is proxied: tc forwards what a session has seen enough of, and nobody can tell but by the counters."""
import contextlib
import socket
import struct

import harness
import product
import udp_case
from udp_case import IP_MTU_DISCOVER, IP_TOS, IP_TTL, IPV6_MTU_DISCOVER, OTHER_PORT, PMTUDISC_DO, PORT, option
from udp_translated_case import HEARD_PORT, TranslatedCase, fib_rule

REDIRECTED_PORT = 5401
SO_NO_CHECK = 11
IPV6_UNICAST_HOPS, IPV6_RECVHOPLIMIT, IPV6_HOPLIMIT, IPV6_RECVTCLASS, IPV6_TCLASS = 16, 51, 52, 66, 67
PLAIN_SIZES, LONG_SIZES = (0, 1, 1000, 1452), (1473, 4000, 20000, 65507)


class Faithful(TranslatedCase):
    def check_datagrams(self, sock, family, port=PORT):
        seen = self.hand_over(sock, family, port)
        for size in PLAIN_SIZES + LONG_SIZES:
            data = bytes(n % 251 for n in range(size))
            answer = self.ask(sock, family, data, port)
            self.assertEqual((len(answer), answer == data), (size, True))
        self.check_translated(sock, family, port)
        self.assertEqual(self.who(sock, family, port), seen)

    def test_each_kind_of_session(self):
        for source in ("masquerade", "preserve"):
            for mapping in ("endpoint-independent", "address-and-port-dependent"):
                self.start_fib(fib_rule(source=source, mapping=mapping))
                for family in harness.FAMILIES:
                    with self.subTest(source=source, mapping=mapping, family=family.name):
                        sock = self.socket(family)
                        self.check_datagrams(sock, family)
                        expected = {"masquerade": family.wan, "preserve": family.client}[source]
                        self.assertEqual(self.who(sock, family)[0], expected)

    def test_redirected(self):
        for family in harness.FAMILIES:
            rule = product.udp_rule({"redirect": product.end(family.server, OTHER_PORT)}, "elsewhere",
                                    {"dport": REDIRECTED_PORT}, forward="fib")
            self.start_fib(rule)
            with self.subTest(family=family.name):
                sock = self.socket(family)
                self.check_datagrams(sock, family, REDIRECTED_PORT)
                self.assertEqual(self.who(sock, family, REDIRECTED_PORT)[0], family.wan)

    def test_status_and_explain_say_so(self):
        self.start_fib()
        self.assertIn("known flows forwarded by fib", self.tpx.command("status").stdout)
        self.assertEqual(self.tpx.status()["rules"][0].get("forward"), "fib")
        for family in harness.FAMILIES:
            notes = self.explained("udp", (family.client, 50000), (family.server, PORT))["notes"]
            self.assertTrue(any("forward: fib" in note and "(translated)" in note for note in notes), notes)

    def test_trains(self):
        self.start_fib()
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                client, server = self.session_with(family)
                for end, to, other in ((client, (family.server, HEARD_PORT), server),
                                       (server, self.seen, client)):
                    before, worker = self.translated(), self.worker_total()
                    train = b"".join(bytes([n]) * 1200 for n in range(20)) + b"short"
                    end.sendmsg([train], [(socket.IPPROTO_UDP, udp_case.UDP_SEGMENT, struct.pack("=H", 1200))], 0, to)
                    self.assertEqual([other.recv(65536) for _ in range(21)],
                                     [bytes([n]) * 1200 for n in range(20)] + [b"short"])
                    self.assertEqual((self.translated() - before, self.worker_total() - worker), (1, 0))
                server.close()

    def worker_total(self):
        return self.total("udp_datagrams_up") + self.total("udp_datagrams_down")

    def test_one_hop_less_and_the_traffic_class_kept(self):
        self.start_fib()
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                client, server = self.session_with(family)
                for end, to, other in ((client, (family.server, HEARD_PORT), server), (server, self.seen, client)):
                    option(other, udp_case.IP_RECVTTL, IPV6_RECVHOPLIMIT)
                    option(other, udp_case.IP_RECVTOS, IPV6_RECVTCLASS)
                    option(end, IP_TTL, IPV6_UNICAST_HOPS, 33)
                    option(end, IP_TOS, IPV6_TCLASS, 0xb9)
                    before = self.translated()
                    end.sendto(b"x", to)
                    controls = {(level, kind): data[0] for level, kind, data in other.recvmsg(100, 200)[1]}
                    v4 = {(socket.IPPROTO_IP, IP_TTL): 32, (socket.IPPROTO_IP, IP_TOS): 0xb9}
                    v6 = {(socket.IPPROTO_IPV6, IPV6_HOPLIMIT): 32, (socket.IPPROTO_IPV6, IPV6_TCLASS): 0xb9}
                    self.assertEqual(controls, v4 if family is harness.V4 else v6)
                    self.assertEqual(self.translated() - before, 1)
                server.close()

    def test_without_a_checksum(self):
        self.start_fib()
        client, server = self.session_with(harness.V4)
        client.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
        before = self.translated()
        client.sendto(b"unchecked", (harness.V4.server, HEARD_PORT))
        self.assertEqual(server.recv(100), b"unchecked")
        self.assertEqual(self.translated() - before, 1)

    def test_the_checksum_is_right_where_no_device_makes_it(self):
        """Without offloads the sender writes it itself, and each receiver looks."""
        for space, device in ((self.lab.client, "c0"), (self.lab.server, "s0")):
            space.run("ethtool", "-K", device, "tx", "off")
        self.start_fib()
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                sock = self.socket(family)
                self.hand_over(sock, family)
                self.check_translated(sock, family)
                for size in PLAIN_SIZES:
                    data = bytes(n % 253 for n in range(size))
                    self.assertEqual(self.ask(sock, family, data), data)

    def test_others_may_still_answer(self):
        """Full cone: whoever knows the port reaches the client, by the worker."""
        self.start_fib()
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                sock = self.socket(family)
                seen = self.hand_over(sock, family)
                stranger = self.far_socket(family)
                stranger.sendto(b"unasked", seen)
                data, sender = sock.recvfrom(100)
                self.assertEqual((data, sender[:2]), (b"unasked", (family.server, stranger.getsockname()[1])))
                self.assertEqual(self.who(sock, family, OTHER_PORT), seen)
                self.check_translated(sock, family)


class Errors(TranslatedCase):
    def test_too_long_and_the_last_hop(self):
        self.lab.gateway.ip("link set wan0 mtu 1400")
        self.start_fib()
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                sock = self.connected(family, family.server, PORT)
                option(sock, IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, PMTUDISC_DO)
                self.hand_over(sock, family)
                sock.send(b"S" * 1450)
                error, payload, _ = self.wait_error(sock)
                self.assertEqual((error.errno, error.info), ("EMSGSIZE", 1400))
                self.assertEqual(payload, b"S" * len(payload))
                self.check_translated(sock, family)
                option(sock, IP_TTL, IPV6_UNICAST_HOPS, 1)
                sock.send(b"S last")
                error, payload, _ = self.wait_error(sock)
                self.assertEqual((error.errno, error.offender), ("EHOSTUNREACH", family.lan))

    def test_the_server_goes_away(self):
        self.start_fib()
        for family in harness.FAMILIES:
            with self.subTest(family=family.name), self.far_socket(family, HEARD_PORT) as server:
                client = self.connected(family, family.server, HEARD_PORT)
                for _ in range(20):
                    client.send(b"question")
                    _, seen = self.heard(server, client, family)
                    server.sendto(b"answer", seen)
                    client.recv(100)
                harness.wait_until(lambda: self.total("udp_translated") == 1, "tc has the session", step=0.2)
                server.close()

                def is_told(client=client):
                    with contextlib.suppress(ConnectionRefusedError):
                        client.send(b"S anybody there?")
                    return udp_case.take_error(client)

                error, payload, _ = harness.wait_until(is_told, "the client gets an ICMP error", step=0.1)
                self.assertEqual((error.errno, error.offender), ("ECONNREFUSED", family.server))
                self.assertEqual(payload, b"S anybody there?"[:len(payload)])
                harness.wait_until(lambda: self.total("udp_translated") == 0, "the worker has it back", step=0.2)

    def test_the_client_goes_away(self):
        self.start_fib()
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                with self.far_socket(family, HEARD_PORT) as server:
                    client = self.socket(family)
                    for _ in range(20):
                        client.sendto(b"question", (family.server, HEARD_PORT))
                        _, seen = self.heard(server, client, family)
                        server.sendto(b"answer", seen)
                        client.recv(100)
                    harness.wait_until(lambda: self.total("udp_translated") == 1, "tc has the session", step=0.2)
                    server.connect(seen)
                    client.close()
                    harness.wait_until(lambda s=server: udp_case.is_refused(s), "the server gets an ICMP error")
                self.assertEqual((self.total("udp_sessions"), self.total("udp_translated")), (0, 0))

if __name__ == "__main__":
    harness.main()
