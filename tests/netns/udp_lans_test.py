# SPDX-License-Identifier: Apache-2.0
"""U1, U8, E5 between two LANs: the server is behind a device where clients are, too."""
import harness
import packets
import product
import udp_spoof_test
from udp_case import CLOSED_PORT, OTHER_PORT, PORT, UdpCase

LANS = {"interfaces": {"lan": ["lan0", "wan0"]}}
DEPENDENT = "address-and-port-dependent"


def rule_of(family, net, name, **more):
    """For what the hosts of a network send."""
    return product.udp_rule(name=f"{name}-{family.name}", match={"src": net}, **more)


def rules_of(net, name, **more):
    return [rule_of(family, getattr(family, net), name, **more) for family in harness.FAMILIES]


# What the rules say of the client's datagrams, then of the server's: the latter must not matter to its answers.
PRESERVE = rules_of("client_net", "clients", source="preserve")
DEPENDENTLY = rules_of("client_net", "clients", source="preserve", mapping=DEPENDENT)
VERDICTS = {"proxied alike": "proxy", "masqueraded": "proxy", "bypassed": "direct", "dropped": "drop", "rejected": "reject"}
OF_SERVERS = {
    "proxied alike": rules_of("server_net", "servers", source="preserve"),
    "masqueraded": rules_of("server_net", "servers", source="masquerade"),
    "bypassed": [],
    "dropped": rules_of("server_net", "servers", action="drop"),
    "rejected": rules_of("server_net", "servers", action="reject"),
}


class BetweenLans(UdpCase):
    def start_lans(self, rules, **more):
        self.start_udp(*rules, **LANS, **more)

    def assert_of_server(self, servers, server, client):
        """Explain of what the server's socket begins towards the client's: by the device where it is."""
        self.assert_explained(VERDICTS[servers], server.getsockname()[:2], client, "udp", chosen=False, more=("--in", "wan0"))

    def receive(self, sock):
        data, sender = sock.recvfrom(100)
        return data, sender[:2]

    def converse(self, family, sock, times=20):
        for n in range(times):
            data = b"datagram %d" % n
            self.assertEqual(self.ask(sock, family, data), data)

    def assert_relayed(self, family, sock, times=20):
        """All datagrams, both ways, in one session."""
        before = self.tpx.totals()
        self.converse(family, sock, times)
        after = self.tpx.totals()
        for name in ("udp_datagrams_up", "udp_datagrams_down"):
            self.assertEqual(after[name] - before[name], times, name)
        self.assertEqual(after["udp_sessions"], before["udp_sessions"])

    def test_U1_masquerade(self):
        for servers, rules in OF_SERVERS.items():
            self.start_lans(rules_of("client_net", "clients", source="masquerade") + rules)
            for family in harness.FAMILIES:
                with self.subTest(servers=servers, family=family.name):
                    sock = self.socket(family)
                    self.assertEqual(self.who(sock, family)[0], family.wan)
                    self.assert_relayed(family, sock)

    def test_U1_preserve(self):
        for clients in (PRESERVE, DEPENDENTLY):
            for servers, rules in OF_SERVERS.items():
                self.start_lans(clients + rules)
                for family in harness.FAMILIES:
                    with self.subTest(servers=servers, mapping=clients[0].get("mapping"), family=family.name):
                        sock = self.socket(family)
                        self.assertEqual(self.who(sock, family), (family.client, sock.getsockname()[1]))
                        self.assert_relayed(family, sock)
                self.assertEqual(self.total("udp_sessions"), 2)
                self.assertEqual(self.total("port_changed"), 0)

    def test_U1_preserve_where_a_service_of_the_gateway_has_the_port(self):
        """The session then has another port, which no flow of the client's names."""
        self.start_lans(PRESERVE)
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                self.socket(family, 4500, space=self.lab.gateway)
                sock = self.socket(family, 4500)
                address, port = self.who(sock, family)
                self.assertEqual(address, family.client)
                self.assertNotEqual(port, 4500)
                self.assert_relayed(family, sock)
        self.assertEqual(self.total("port_changed"), 2)

    def test_U1_both_begin(self):
        """Each is the other's client, from one port."""
        for servers in ("proxied alike", "bypassed"):
            self.start_lans(PRESERVE + OF_SERVERS[servers])
            for family in harness.FAMILIES:
                for first_is_client in (True, False):
                    with self.subTest(servers=servers, family=family.name, first_is_client=first_is_client):
                        client, server = self.socket(family, address=family.client), \
                            self.far_socket(family, address=family.server)
                        ends = (client, server) if first_is_client else (server, client)
                        self.assert_of_server(servers, server, client.getsockname()[:2])
                        self.assert_explained("proxy", client.getsockname()[:2], server.getsockname()[:2], "udp",
                                              chosen=False)
                        for n in range(6):
                            sender, receiver = ends if n % 2 == 0 else ends[::-1]
                            sender.sendto(b"%d" % n, receiver.getsockname())
                            self.assertEqual(self.receive(receiver), (b"%d" % n, sender.getsockname()[:2]))

    def test_U8_a_server_that_is_a_client_later(self):
        """When the session is gone, what the server sends is a flow of its own."""
        times = {"udp_one_way": "1s", "udp_answered": "1s", "udp_stream": "1s"}
        self.start_lans(PRESERVE + OF_SERVERS["masqueraded"], proxy=times)
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                client, server = self.socket(family), self.far_socket(family, 5310, family.server)
                client.sendto(b"request", (family.server, 5310))
                _, seen = self.heard(server, client, family)
                server.sendto(b"response", seen)
                self.assertEqual(self.receive(client), (b"response", (family.server, 5310)))
                harness.wait_until(lambda: self.total("udp_sessions") == 0, "the session ends")
                hits = self.tpx.rules()[f"servers-{family.name}"]

                def own_flow(server=server, seen=seen, client=client):
                    server.sendto(b"call", seen)
                    return client.recvfrom(100)[1][0]
                # as soon as the client's flow was silent for long enough
                harness.wait_until(lambda f=family, o=own_flow: o() == f.lan, "its own rule holds", 20, 0.5)
                self.assertEqual(self.tpx.rules()[f"servers-{family.name}"] - hits, 1)
                self.assert_of_server("masqueraded", server, (family.client, client.getsockname()[1]))

    def test_U8_strangers(self):
        """Whom the client never asked: they reach it as themselves, or not at all where a rule denies them."""
        for mapping in (PRESERVE, DEPENDENTLY):
            for servers in ("proxied alike", "bypassed", "dropped"):
                self.start_lans(mapping + OF_SERVERS[servers])
                for family in harness.FAMILIES:
                    with self.subTest(servers=servers, mapping=mapping[0].get("mapping"), family=family.name):
                        client, stranger = self.socket(family), self.far_socket(family)
                        name = (family.server, stranger.getsockname()[1])
                        self.converse(family, client, 2)
                        for n in range(3):
                            stranger.sendto(b"unasked %d" % n, (family.client, client.getsockname()[1]))
                            if servers != "dropped":
                                self.assertEqual(self.receive(client), (b"unasked %d" % n, name))
                        if servers == "dropped":
                            self.assert_silence(client)
                        stranger.connect((family.client, client.getsockname()[1]))  # has an address now
                        self.assert_of_server(servers, stranger, (family.client, client.getsockname()[1]))
                        self.converse(family, client, 2)

    def test_U1_direct_flows_and_their_answers_stay_direct(self):
        """The client's are bypassed; the rules would proxy or deny what the server sends."""
        for servers in ("proxied alike", "masqueraded", "dropped", "rejected"):
            self.start_lans(OF_SERVERS[servers])
            for family in harness.FAMILIES:
                with self.subTest(servers=servers, family=family.name):
                    sock = self.socket(family)
                    self.assertEqual(self.who(sock, family), (family.client, sock.getsockname()[1]))
                    self.converse(family, sock)
            self.assertEqual(self.total("udp_sessions_total"), 0)

    def test_E5_a_flow_that_began_without_a_proxy_stays_direct_both_ways(self):
        for source in ("masquerade", "preserve"):
            self.start_lans([product.udp_rule(source=source)])
            self.assertEqual(self.tpx.stop(), 0)
            socks = {family: self.socket(family) for family in harness.FAMILIES}
            for family, sock in socks.items():
                self.assertEqual(self.who(sock, family), (family.client, sock.getsockname()[1]))
            self.tpx.start()
            for family, sock in socks.items():
                with self.subTest(source=source, family=family.name):
                    self.converse(family, sock)
            self.assertEqual(self.total("udp_sessions_total"), 0)

    def test_U1_one_host_cannot_make_its_own_answer(self):
        """A datagram in the server's name from the client's side does not change what the rules say of the client's."""
        redirect = [product.udp_rule(name=f"redirect-{family.name}", match={"src": family.client_net, "dport": PORT},
                                     action={"redirect": target})
                    for family, target in ((harness.V4, f"{harness.V4.server}:{OTHER_PORT}"),
                                           (harness.V6, f"[{harness.V6.server}]:{OTHER_PORT}"))]
        for source in ("masquerade", "preserve", None):
            self.start_lans(redirect + ([product.udp_rule(source=source)] if source else []))
            for family in harness.FAMILIES:
                with self.subTest(source=source, family=family.name):
                    client = self.socket(family)
                    before = self.tpx.rules()[f"redirect-{family.name}"]
                    with packets.Tap(self.lab.client, "c0") as tap:
                        tap.send(udp_spoof_test.frame(self.lab, family.server, family.client,
                                                      client.getsockname()[1], sport=PORT))
                    self.assertEqual(client.recvfrom(100)[0], b"E")
                    self.who(client, family)
                    self.assertEqual(self.tpx.rules()[f"redirect-{family.name}"], before + 1)

    def test_P16_errors_of_the_servers_side(self):
        self.start_lans(PRESERVE)
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                sock = self.connected(family, family.server, CLOSED_PORT)
                sock.send(b"probe")
                error, payload, to = self.wait_error(sock)
                self.assertEqual((error.errno, error.offender), ("ECONNREFUSED", family.server))
                self.assertEqual((payload, to), (b"probe", (family.server, CLOSED_PORT)))
                self.assert_explained("proxy", sock.getsockname()[:2], (family.server, CLOSED_PORT), "udp", chosen=False)
        self.assertEqual(self.total("udp_icmp_errors"), 2, "the sessions learnt of it")


if __name__ == "__main__":
    harness.main()
