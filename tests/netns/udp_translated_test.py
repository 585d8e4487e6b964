# SPDX-License-Identifier: Apache-2.0
"""forward: fib of UDP that is proxied: tc forwards what a session has seen enough of, and nobody can tell but by the counters."""
import contextlib
import socket
import struct
import time

import harness
import product
import udp_case
from udp_case import IP_MTU_DISCOVER, IP_TOS, IP_TTL, IPV6_MTU_DISCOVER, OTHER_PORT, PMTUDISC_DO, PORT, UdpCase, option

LEASE = 1.0
MARGIN = 1.0  # for a loaded machine
HEARD_PORT = 5400  # of a socket of the test's own at the server
REDIRECTED_PORT = 5401
SO_NO_CHECK = 11
IPV6_UNICAST_HOPS, IPV6_RECVHOPLIMIT, IPV6_HOPLIMIT, IPV6_RECVTCLASS, IPV6_TCLASS = 16, 51, 52, 66, 67
PLAIN_SIZES, LONG_SIZES = (0, 1, 1000, 1452), (1473, 4000, 20000, 65507)


def fib_rule(**more):
    return product.udp_rule(forward="fib", **more)


class TranslatedCase(UdpCase):
    def start_fib(self, *rules, **options):
        self.start_udp(*(rules or [fib_rule()]), **options)

    def translated(self):
        return self.tpx.reasons().get("translated", 0)

    def hand_over(self, sock, family, port=PORT):
        """Until tc forwards both directions; what the server saw of the client all the time."""
        before, seen = self.translated(), {self.who(sock, family, port)}

        def goes_both_ways():
            seen.add(self.who(sock, family, port))
            there = self.translated()
            seen.add(self.who(sock, family, port))
            return self.translated() - there == 2

        harness.wait_until(goes_both_ways, "tc forwards the session")
        self.assertGreater(self.translated(), before)
        self.assertEqual(len(seen), 1, f"the server saw it change: {seen}")
        return seen.pop()

    def check_translated(self, sock, family, port=PORT, count=4):
        worker, before = self.total("udp_datagrams_up"), self.translated()
        for n in range(count):
            self.assertEqual(self.ask(sock, family, b"E%d" % n, port), (b"E%d" % n, (family.server, port)))
        self.assertEqual(self.translated() - before, 2 * count)
        self.assertEqual(self.total("udp_datagrams_up"), worker)


    def session_with(self, family):
        """A client's socket and a server's, whose datagrams tc forwards; self.seen: as whom the server sees it."""
        client, server = self.socket(family), self.far_socket(family, HEARD_PORT, family.server)
        harness.wait_until(lambda: self.exchange(client, server, family) == 2, "tc forwards the session")
        return client, server

    def exchange(self, client, server, family):
        """How many of a question and its answer were forwarded by tc."""
        before = self.translated()
        client.sendto(b"question", (family.server, HEARD_PORT))
        self.seen = self.heard(server, client, family)[1]
        server.sendto(b"answer", self.seen)
        self.assertEqual(client.recv(100), b"answer")
        return self.translated() - before


class Faithful(TranslatedCase):
    def check_datagrams(self, sock, family, port=PORT):
        seen = self.hand_over(sock, family, port)
        for size in PLAIN_SIZES + LONG_SIZES:
            data = bytes(n % 251 for n in range(size))
            answer, sender = self.ask(sock, family, data, port)
            self.assertEqual((len(answer), answer == data, sender), (size, True, (family.server, port)))
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

    def test_is_off_by_default(self):
        self.start_udp()
        for family in harness.FAMILIES:
            sock = self.socket(family)
            for _ in range(40):
                self.ask(sock, family, b"E")
        self.assertEqual(self.translated(), 0)
        self.assertEqual(self.total("udp_translated_total"), 0)

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
                    self.assertEqual(self.ask(sock, family, data)[0], data)

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
                harness.wait_until(lambda: self.total("udp_translated") == 1, "tc has the session")
                server.close()

                def is_told(client=client):
                    with contextlib.suppress(ConnectionRefusedError):
                        client.send(b"S anybody there?")
                    return udp_case.take_error(client)

                error, payload, _ = harness.wait_until(is_told, "the client gets an ICMP error", step=0.1)
                self.assertEqual((error.errno, error.offender), ("ECONNREFUSED", family.server))
                self.assertEqual(payload, b"S anybody there?"[:len(payload)])
                harness.wait_until(lambda: self.total("udp_translated") == 0, "the worker has it back")

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
                    harness.wait_until(lambda: self.total("udp_translated") == 1, "tc has the session")
                    server.connect(seen)
                    client.close()

                    def is_told(server=server):
                        try:
                            server.send(b"anybody there?")
                            time.sleep(0.05)
                            return False
                        except ConnectionRefusedError:
                            return True

                    harness.wait_until(is_told, "the server gets an ICMP error")
                self.assertEqual((self.total("udp_sessions"), self.total("udp_translated")), (0, 0))


class Changes(TranslatedCase):
    def both(self):
        socks = {family: self.socket(family) for family in harness.FAMILIES}
        return socks, {family: self.hand_over(sock, family) for family, sock in socks.items()}

    def test_neighbours_and_fragments_in_between(self):
        self.start_fib()
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                sock = self.socket(family)
                seen = self.hand_over(sock, family)
                for device in ("wan0", "lan0"):
                    self.lab.gateway.ip(f"neigh flush dev {device}")
                    self.assertEqual(self.ask(sock, family, b"E")[0], b"E")
                    self.ask(sock, family, b"E")
                    self.check_translated(sock, family)
                self.assertEqual(self.who(sock, family), seen)

    def test_the_gateway_loses_its_address(self):
        """As where a provider gives another one: the session goes on with it."""
        self.lab.gateway.sysctl("net/ipv4/conf/wan0/promote_secondaries", 1)
        self.start_fib()
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                sock = self.socket(family)
                self.assertEqual(self.hand_over(sock, family)[0], family.wan)
                other = family.wan.removesuffix("1") + "9"
                self.lab.address(self.lab.gateway, "wan0", family, other)
                self.lab.gateway.ip(f"addr del {family.wan}/{family.bits} dev wan0")

                def goes_on(sock=sock, family=family):
                    sock.settimeout(0.2)
                    try:
                        sock.sendto(b"W", (family.server, PORT))
                        return other.encode() in sock.recv(100)
                    except TimeoutError:
                        return False
                    finally:
                        sock.settimeout(5)

                harness.wait_until(goes_on, "the session has the other address")
                self.assertEqual(self.hand_over(sock, family)[0], other)

    def test_another_way_out(self):
        """The gateway's address is that of the new way, as for a new session."""
        self.lab.link(self.lab.server, "s1", self.lab.gateway, "wan1")
        self.start_fib(interfaces={"lan": ["lan0"], "wan": ["wan0", "wan1"]})
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                ours, theirs = (udp_case.far_address(family, n) for n in (1, 2))
                self.lab.address(self.lab.gateway, "wan1", family, ours)
                self.lab.address(self.lab.server, "s1", family, theirs)
                client, server = self.session_with(family)
                self.assertEqual(self.seen[0], family.wan)
                self.lab.gateway.ip(f"route add {family.server} via {theirs}")
                for _ in range(3):
                    self.exchange(client, server, family)
                    self.assertEqual(self.seen[0], ours)
                harness.wait_until(lambda c=client, s=server, f=family: self.exchange(c, s, f) == 2,
                                   "tc forwards it that way")
                self.assertEqual(self.seen[0], ours)
                server.close()

    def test_routes_by_the_mark_of_the_proxy_are_left_to_the_stack(self):
        self.lab.link(self.lab.server, "s1", self.lab.gateway, "wan1")
        self.start_fib(interfaces={"lan": ["lan0"], "wan": ["wan0", "wan1"]})
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                ours, theirs = (udp_case.far_address(family, n) for n in (1, 2))
                self.lab.address(self.lab.gateway, "wan1", family, ours)
                self.lab.address(self.lab.server, "s1", family, theirs)
                option = "-6" if family is harness.V6 else "-4"
                self.lab.gateway.run("ip", option, "rule", "add", "fwmark", "0x40000000/0x60000000", "lookup", "100")
                self.lab.gateway.run("ip", option, "route", "add", "default", "via", theirs, "table", "100")
                client, server = self.socket(family), self.far_socket(family, HEARD_PORT, family.server)
                before = self.total("udp_datagrams_up")
                for _ in range(60):
                    self.exchange(client, server, family)
                    self.assertEqual(self.seen[0], ours)
                self.assertEqual(self.total("udp_datagrams_up") - before, 60, "none by tc, past the rule")
                self.assertGreater(self.total("udp_translated_total"), 0)
                server.close()

    def test_addresses_that_somebody_translates_further_are_left_to_the_stack(self):
        for family, keyword in ((harness.V4, "ip"), (harness.V6, "ip6")):
            with self.subTest(family=family.name):
                other = udp_case.far_address(family, 7)
                self.lab.address(self.lab.gateway, "lo", family, other)
                self.lab.gateway.nft(f"table {keyword} nat {{ chain out {{ type nat hook postrouting priority 100; "
                                     f"oifname wan0 udp dport {PORT} snat to {other} }} }}")
                self.start_fib()
                sock = self.socket(family)
                for _ in range(60):
                    sock.sendto(b"W", (family.server, PORT))
                    self.assertIn(other.encode(), sock.recv(100))
                self.assertEqual(self.translated(), 0)
                self.assertGreater(self.total("udp_translated_total"), 0)

    def test_reload(self):
        self.start_fib()
        socks, seen = self.both()
        self.tpx.reload(product.config([fib_rule(source="preserve")]))
        for family, sock in socks.items():
            self.check_translated(sock, family)  # keeps what was decided
        self.tpx.reload(product.config([product.udp_rule("drop")]), extra=["--existing", "abort"])
        for family, sock in socks.items():
            before = self.translated()
            for _ in range(3):
                sock.sendto(b"E", (family.server, PORT))
            self.assert_silence(sock)
            self.assertEqual(self.translated(), before)
        self.tpx.reload(product.config([fib_rule()]))
        for family, sock in socks.items():
            self.hand_over(sock, family)

    def test_ages_with_what_tc_forwards(self):
        self.start_fib(proxy={"udp_stream": "3s"})
        descriptors = self.descriptors()
        socks, seen = self.both()
        end = time.monotonic() + 5
        while time.monotonic() < end:
            for family, sock in socks.items():
                self.check_translated(sock, family, count=1)
            time.sleep(0.1)
        self.assertEqual({family: self.who(sock, family) for family, sock in socks.items()}, seen)
        self.assertEqual(self.total("udp_sessions_aged"), 0)
        harness.wait_until(lambda: self.total("udp_sessions") == 0, "the sessions end", 10)
        self.assertEqual(self.total("udp_translated"), 0)
        harness.wait_until(lambda: self.descriptors() <= descriptors + self.total("udp_reply_sockets"),
                           "their descriptors are closed")
        self.assertEqual(self.entries(), 0)
        for family, sock in socks.items():
            self.assertNotEqual(self.hand_over(sock, family), seen[family])

    def entries(self):
        dump = self.lab.gateway.run("bpftool", "-j", "map", "dump", "pinned", self.tpx.pins / "tpx_nat").stdout
        return dump.count('"key"')

    def test_an_idle_pair_goes_back(self):
        self.start_fib()
        socks, seen = self.both()
        harness.wait_until(lambda: self.entries() == 0, "tc has none of them", 20)
        self.assertEqual(self.total("udp_translated"), 0)
        for family, sock in socks.items():
            self.assertEqual(self.hand_over(sock, family), seen[family], "the session went on")


class Failing(TranslatedCase):
    def outcome(self, sock, family):
        sock.settimeout(0)
        try:
            while True:
                sock.recv(65536)
        except (BlockingIOError, ConnectionRefusedError):
            pass
        sock.settimeout(0.5)
        try:
            sock.sendto(b"W", (family.server, PORT))
            return sock.recv(100).decode()
        except TimeoutError:
            return None
        except ConnectionRefusedError:
            return "refused"

    def connected_pair(self):
        socks = {}
        for family in harness.FAMILIES:
            socks[family] = self.socket(family)
            socks[family].connect((family.server, PORT))
            self.hand_over(socks[family], family)
        return socks

    def test_L1_L2_L3_killed(self):
        for mode in ("open", "closed", "reset"):
            self.start_fib(fib_rule(on_proxy_down=mode))
            socks = self.connected_pair()
            self.tpx.crash()
            time.sleep(LEASE + MARGIN)
            before = self.translated()
            for family, sock in socks.items():
                with self.subTest(mode=mode, family=family.name):
                    seen = self.outcome(sock, family)
                    if mode == "open":
                        self.assertIn(family.client, seen)
                    else:
                        self.assertEqual(seen, None if mode == "closed" else "refused")
            self.assertEqual(self.translated(), before)

    def test_L4_killed_and_started_again(self):
        self.start_fib(fib_rule(on_proxy_down="closed"))
        socks = self.connected_pair()
        self.tpx.crash()
        self.tpx.start()
        before = self.translated()
        for family, sock in socks.items():
            self.assertIn(family.wan, self.outcome(sock, family))
        self.assertEqual(self.translated(), before, "by the new worker")
        for family, sock in socks.items():
            self.hand_over(sock, family)

    def test_L5_hung(self):
        self.start_fib(fib_rule(on_proxy_down="closed"))
        socks = self.connected_pair()
        self.tpx.kill(19)
        try:
            time.sleep(LEASE + MARGIN)
            self.assertEqual({self.outcome(sock, family) for family, sock in socks.items()}, {None})
        finally:
            self.tpx.kill(18)
        for family, sock in socks.items():
            harness.wait_until(lambda s=sock, f=family: self.outcome(s, f), "it goes on")

    def test_L7_drains_while_tc_forwards(self):
        self.start_fib(proxy={"drain_timeout": "30s"})
        socks = self.connected_pair()
        self.tpx.kill(15)
        end = time.monotonic() + 4
        while time.monotonic() < end:
            for family, sock in socks.items():
                self.assertIn(family.wan, self.outcome(sock, family))
            time.sleep(0.1)
        self.assertIsNone(self.tpx.daemon.poll(), "it left its flows")
        self.assertEqual(self.tpx.daemon.wait(10), 0)

    def test_detach_leaves_nothing(self):
        self.start_fib()
        socks = self.connected_pair()
        self.assertEqual(self.tpx.stop(), 0)
        self.tpx.detach()
        for family, sock in socks.items():
            self.assertIn(family.client, self.outcome(sock, family))


if __name__ == "__main__":
    harness.main()
