# SPDX-License-Identifier: Apache-2.0
"""U8, U9: mapping and filtering as RFC 5780 finds them out, and how long a session lives."""
import collections
import json
import time

import harness
import product
from udp_case import UdpCase, drain

LONG = "60s"


def family_of(sock):
    return next(family for family in harness.FAMILIES if family.af == sock.family)


class Behaviour(UdpCase):
    """The server has two addresses with two ports each, which the discovery needs."""

    def setUp(self):
        super().setUp()
        self.servers = {}
        for family in harness.FAMILIES:
            addresses = [family.server.removesuffix("2") + n for n in ("10", "11")]
            for address in addresses:
                self.lab.address(self.lab.server, "s0", family, address)
            self.servers[family] = [self.far_socket(family, port, address)
                                    for address in addresses for port in (5310, 5311)]

    def mapped(self, client, server):
        """A binding request: whom the server sees, and it answers."""
        client.sendto(b"request", server.getsockname())
        data, seen = self.heard(server, client, family_of(server))
        self.assertEqual(data, b"request")
        server.sendto(b"response", seen)
        self.assertEqual(client.recvfrom(100), (b"response", server.getsockname()))
        return seen

    def test_U8_endpoint_independent_mapping(self):
        for family, _, case in self.each_way():
            with case:
                client = self.socket(family)
                self.assertEqual(len({self.mapped(client, server) for server in self.servers[family]}), 1)
                self.assertNotIn(self.mapped(self.socket(family), self.servers[family][0]),
                                 {self.mapped(client, server) for server in self.servers[family]})

    def by_worker(self):
        """Sessions that tc goes by to choose a worker."""
        words = [entry["formatted"]["value"]["word"] for entry in json.loads(harness.run(
            ["bpftool", "-j", "map", "dump", "pinned", self.tpx.pins / "tpx_affinities"]).stdout)]
        counts = collections.Counter()
        for word in words:
            counts[word & 0xff] += word >> 8 & 0xffffff
        return +counts

    def test_U8_the_mapping_is_that_of_the_worker_who_has_the_client(self):
        """Where tc carries sessions on, their worker is one that is awake; else it is drawn by the client's port."""
        self.start_udp(product.udp_rule(forward="auto"), proxy={"udp_stream": "10s"})
        for family in harness.FAMILIES:
            first, *others = self.servers[family]
            self.tpx.reload(product.config([product.udp_rule(forward="auto")]))
            clients = [self.socket(family) for _ in range(40)]
            seen = [self.mapped(client, first) for client in clients]
            self.tpx.reload(product.config([product.udp_rule(forward="stack")]))
            for server in others:
                self.assertEqual([self.mapped(client, server) for client in clients], seen)
            for client in [self.socket(family) for _ in range(40)]:
                self.mapped(client, first)
        counts = self.by_worker()
        self.assertEqual((set(counts), counts.total()), ({0, 1}, 160), counts)
        harness.wait_until(lambda: self.total("udp_sessions") == 0, "the sessions end", 20)
        self.assertFalse(self.by_worker())

    def test_U8_endpoint_independent_filtering(self):
        """Whoever knows the mapped port may send to it: another port of the server, another host."""
        for family, _, case in self.each_way():
            with case:
                client = self.socket(family)
                seen = self.mapped(client, self.servers[family][0])
                for other in self.servers[family][1:]:
                    other.sendto(b"unasked", seen)
                    self.assertEqual(client.recvfrom(100), (b"unasked", other.getsockname()))

    def start_dependent(self, source):
        rule = product.udp_rule(mapping="address-and-port-dependent", source=source)
        self.start_udp(rule)

    def test_U8_address_and_port_dependent_mapping(self):
        self.start_dependent("masquerade")
        for family in harness.FAMILIES:
            client = self.socket(family)
            seen = [self.mapped(client, server) for server in self.servers[family]]
            self.assertEqual(len(set(seen)), 4, "an upstream port for each destination")
            self.assertEqual([self.mapped(client, server) for server in self.servers[family]], seen, "and it stays")

    def test_U8_address_and_port_dependent_mapping_keeps_preserved_ports(self):
        self.start_dependent("preserve")
        for family in harness.FAMILIES:
            client = self.socket(family)
            own = (family.client, client.getsockname()[1])
            self.assertEqual({self.mapped(client, server)[:2] for server in self.servers[family]}, {own})
        self.assertEqual(self.total("port_changed"), 0)
        self.assertEqual(self.total("udp_sessions"), 8)

    def test_U8_address_and_port_dependent_filtering(self):
        for source in ("masquerade", "preserve"):
            self.start_dependent(source)
            for family in harness.FAMILIES:
                with self.subTest(source=source, family=family.name):
                    client = self.socket(family)
                    first = self.servers[family][0]
                    seen = self.mapped(client, first)
                    before = self.total("udp_datagrams_down")
                    for other in self.servers[family][1:]:
                        other.sendto(b"unasked", seen)
                    if source == "preserve":
                        # What the proxy has no socket for is forwarded as if there were no proxy.
                        time.sleep(0.2)
                    else:
                        self.assert_silence(client)
                    self.assertEqual(self.total("udp_datagrams_down"), before)
                    drain(client)
                    self.assertEqual(self.mapped(client, first), seen)


class Ageing(UdpCase):
    def start_with(self, one_way=LONG, answered=LONG, stream=LONG, **more):
        self.start_udp(proxy={"udp_one_way": one_way, "udp_answered": answered, "udp_stream": stream}, **more)

    def query(self, client, server, answers=True):
        client.sendto(b"query", server.getsockname())
        _, seen = self.heard(server, client, family_of(server))
        if answers:
            server.sendto(b"answer", seen)
            client.recv(100)
        return seen

    def assert_goes(self):
        harness.wait_until(lambda: self.total("udp_sessions") == 0, "the session ends", 10)
        self.assertEqual(self.total("udp_sessions_aged"), self.total("udp_sessions_total"))

    def assert_stays(self, count, seconds=3):
        time.sleep(seconds)
        self.assertEqual(self.total("udp_sessions"), count)

    def test_U9_one_way(self):
        for port in (53, 5310):
            for family in harness.FAMILIES:
                with self.subTest(port=port, family=family.name):
                    self.start_with(one_way="1s")
                    descriptors = self.descriptors()
                    with self.far_socket(family, port, family.server) as server:
                        self.query(self.socket(family), server, answers=False)
                    self.assertEqual(self.total("udp_sessions"), 1)
                    self.assert_goes()
                    harness.wait_until(lambda: self.descriptors() <= descriptors, "its descriptor is closed")

    def test_U9_answered_queries(self):
        for source in ("masquerade", "preserve"):
            for family in harness.FAMILIES:
                with self.subTest(source=source, family=family.name):
                    self.start_with(answered="1s", source=source)
                    client = self.socket(family)
                    with self.far_socket(family, 53, family.server) as server:
                        for _ in range(2):
                            self.query(client, server)
                    self.assert_goes()

    def test_U9_what_is_no_query_is_a_stream(self):
        """Another port, more queries than a resolver has at once, DNS and something else from one port."""
        self.start_with(one_way="1s", answered="1s")
        for family in harness.FAMILIES:
            names, other = self.far_socket(family, 53, family.server), self.far_socket(family, 5310, family.server)
            for servers in ((other,), (names,) * 5, (names, other), (other, names)):
                client = self.socket(family)
                for server in servers:
                    self.query(client, server)
        self.assert_stays(8)

    def test_U9_stream(self):
        self.start_with(one_way="1s", answered="1s", stream="6s")
        for family in harness.FAMILIES:
            with self.far_socket(family, 5310, family.server) as server:
                self.query(self.socket(family), server)
        self.assert_stays(2)
        self.assert_goes()

    def test_U9_either_direction_keeps_a_session(self):
        self.start_with("4s", "4s", "4s")
        flows = []
        for family in harness.FAMILIES:
            for port, by_client in ((5310, True), (5311, False)):
                server, client = self.far_socket(family, port, family.server), self.socket(family)
                seen = self.query(client, server)
                name = server.getsockname()
                flows.append((client, server, name, seen) if by_client else (server, client, seen, name))
        for _ in range(10):
            time.sleep(0.8)
            for sender, receiver, to, sender_name in flows:
                sender.sendto(b"still here", to)
                self.assertEqual(receiver.recvfrom(100), (b"still here", sender_name))
        self.assertEqual(self.total("udp_sessions_total"), len(flows))

    def test_U9_queries_without_an_answer_keep_a_one_way_session(self):
        self.start_with(one_way="2s")
        server, client = self.far_socket(harness.V4, 5310, harness.V4.server), self.socket(harness.V4)
        seen = {self.query(client, server, answers=False)}
        for _ in range(8):
            time.sleep(0.5)
            seen.add(self.query(client, server, answers=False))
        self.assertEqual(len(seen), 1)


if __name__ == "__main__":
    harness.main()
