# SPDX-License-Identifier: Apache-2.0
"""S3, S5 and S6: packets to addresses that are nobody's, names of others, and packets from addresses of another link."""
import socket
import ssl

import harness
import packets
import product
import udp_crowd
import udp_spoof_test

PORT = 8080
NOBODYS = ("127.0.0.1", "127.8.8.8", "0.0.0.0", "0.1.2.3", "169.254.169.254", "100.100.100.200",
           "::1", "::", "fe80::1", "febf::1", "fd00:ec2::254", "ff02::1", "::ffff:127.0.0.1")
PROXIED = [product.rule(), product.udp_rule()]
NAMES = ("localhost", "127.0.0.1", "[::1]", "metadata.google.internal.", "LocalHost.", "xn--lcalhost-n4a", "a" * 300, "a\0b")


def syn(source, destination, port=PORT):
    """An IP packet with a SYN."""
    family = udp_crowd.family_of(source)
    ends = socket.inet_pton(family, source) + socket.inet_pton(family, destination)
    tcp = (4444).to_bytes(2) + port.to_bytes(2) + (1).to_bytes(4) + bytes(4) + b"\x50\x02\x10\0" + bytes(4)
    sum_of = packets.checksum(ends + len(tcp).to_bytes(4) + (6).to_bytes(4) + tcp)
    tcp = tcp[:16] + sum_of.to_bytes(2) + tcp[18:]
    if family == socket.AF_INET6:
        return b"\x60\0\0\0" + len(tcp).to_bytes(2) + b"\x06\x40" + ends + tcp
    header = b"\x45\0" + (20 + len(tcp)).to_bytes(2) + b"\0\1\0\0\x40\x06\0\0" + ends
    return header[:10] + packets.checksum(header).to_bytes(2) + header[12:] + tcp


def frame(space, device, gateway, other, packet):
    """From a namespace's device to the gateway's at the other end of its link."""
    kind = b"\x86\xdd" if packet[0] >> 4 == 6 else b"\x08\0"
    return udp_spoof_test.mac(gateway, other) + udp_spoof_test.mac(space, device) + kind + packet


class Forged(product.TestCase):
    def test_S3_special_addresses_are_never_proxied(self):
        self.tpx.start(product.config(PROXIED, default="proxy"))
        listeners = [self.lab.gateway.listen(family, PORT, family.loopback) for family in harness.FAMILIES]
        before = self.tpx.reasons()
        own = [(f, address) for f in harness.FAMILIES for address in (f.lan, f.wan)]
        with packets.Tap(self.lab.client, "c0") as tap:
            for destination in NOBODYS:
                family = harness.V6 if ":" in destination else harness.V4
                self.send(tap, syn(family.client, destination))
                if not destination.startswith("::ffff:"):  # explain takes them for IPv4, which cannot be sent so
                    self.assert_reason("special_address", (family.client, 4444), (destination, PORT))
            for family, destination in own:
                self.send(tap, syn(family.client, destination))
                self.assert_reason("own_address", (family.client, 4444), (destination, PORT))

            def grown(reason):
                return self.tpx.reasons().get(reason, 0) - before.get(reason, 0)

            harness.wait_until(lambda: grown("special_address") >= len(NOBODYS), "they are counted")
            harness.wait_until(lambda: grown("own_address") >= len(own), "those to the gateway are counted")
        for listener in listeners:
            with listener:
                listener.settimeout(0.3)
                with self.assertRaises(TimeoutError):
                    listener.accept()
        self.assertEqual(self.tpx.totals()["sessions_total"], 0)
        self.assertEqual(set(self.tpx.rules().values()), {0})

    def send(self, tap, packet):
        tap.send(frame(self.lab.client, "c0", self.lab.gateway, "lan0", packet))


def hello(name):
    """What a client of TLS sends first, with that name in it."""
    sent = ssl.MemoryBIO()
    try:
        tls = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), sent, server_hostname=name)
        tls.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return sent.read()


class Names(product.TestCase):
    def test_S5_names_of_others_in_what_is_sent_change_nothing(self):
        self.tpx.start(product.config(PROXIED))
        for family in harness.FAMILIES:
            others = [self.lab.gateway.listen(family, PORT, address) for address in (family.loopback, family.lan)]
            with self.lab.server.listen(family, PORT, family.server) as server:
                server.settimeout(10)
                said = [f"GET / HTTP/1.1\r\nHost: {name}\r\n\r\n".encode() for name in NAMES]
                said += [hello(name) for name in ("localhost", "127.0.0.1", "metadata.google.internal")]
                for payload in said:
                    with self.subTest(family=family.name, payload=payload[:60]):
                        self.assertEqual(self.send_to(family, server, payload), (family.wan, payload))
            for other in others:
                with other:
                    other.setblocking(False)
                    with self.assertRaises(BlockingIOError):
                        other.accept()

    def send_to(self, family, server, payload):
        """From whom the server gets it, and what."""
        with self.lab.client.connect(family, family.server, PORT) as client:
            client.sendall(payload)
            client.shutdown(socket.SHUT_WR)
            connection, (peer, *_) = server.accept()
            with connection, connection.makefile("rb") as stream:
                return peer, stream.read()


class OtherLink(product.TestCase):
    """An attacker on a link of its own, who speaks in the name of the client."""

    def setUp(self):
        super().setUp()
        self.lab.serve()
        self.attacker = self.lab.namespace("a")
        self.lab.link(self.attacker, "a0", self.lab.gateway, "lan1")
        self.lab.address(self.lab.gateway, "lan1", harness.V4, "203.0.113.1")
        self.lab.address(self.lab.gateway, "lan1", harness.V6, "2001:db8:3::1")

    def forge(self, family):
        """What the attacker, the client and the server get to see of it: TCP packets."""
        taps = {"attacker": (self.attacker, "a0"), "client": (self.lab.client, "c0"), "server": (self.lab.server, "s0")}
        with packets.Tap(*taps["attacker"]) as a, packets.Tap(*taps["client"]) as c, packets.Tap(*taps["server"]) as s:
            before = self.tpx.rules()["of-the-client"]
            for _ in range(5):
                a.send(frame(self.attacker, "a0", self.lab.gateway, "lan1", syn(family.client, family.server)))
            harness.wait_until(lambda: self.tpx.rules()["of-the-client"] >= before + 5, "they are counted")
            self.assert_explained(("proxy", "direct"), (family.client, 4444), (family.server, PORT), rule="of-the-client",
                                  more=("--in", "lan1"))
            return {name: [p for outgoing, p in tap.collect(seconds=0.5) if not outgoing]
                    for name, tap in (("attacker", a), ("client", c), ("server", s))}

    def start(self, action, source):
        nets = [f.client_net for f in harness.FAMILIES]
        rules = [product.rule(action, "of-the-client", {"src": nets}), product.rule("reject", "of-others")]
        self.tpx.start(product.config(rules, source=source, interfaces={"lan": ["lan0", "lan1"], "wan": ["wan0"]}))

    def restart(self):
        self.assertEqual(self.tpx.stop(), 0)
        self.tpx.detach()

    def test_S6_the_answers_of_a_forged_client_are_the_clients(self):
        """No reverse path filter: as with a router the packet is the client's; whoever sent it gets nothing."""
        for source in ("masquerade", "preserve"):
            self.start("proxy", source)
            for family in harness.FAMILIES:
                with self.subTest(source=source, family=family.name):
                    seen = self.forge(family)
                    self.assertEqual(seen["attacker"], [])
                    self.assertEqual(seen["server"], [], "nobody finished the handshake")
                    self.assertTrue(all(p.flags & packets.ACK for p in seen["client"]))
            self.assertEqual(self.tpx.totals()["sessions_total"], 0)
            self.restart()

    def test_S6_a_strict_reverse_path_filter_holds_for_proxied_packets(self):
        for scope in ("all", "default", "lan0", "lan1", "wan0", "lo"):
            self.lab.gateway.sysctl(f"net/ipv4/conf/{scope}/rp_filter", 1)
        for action in ("proxy", "bypass"):
            for source in ("masquerade", "preserve"):
                with self.subTest(action=action, source=source):
                    self.start(action, source)
                    self.assertEqual(self.forge(harness.V4), {"attacker": [], "client": [], "server": []})
                    self.assertEqual(self.tpx.totals()["sessions_total"], 0)
                    self.assertEqual(self.lab.who(harness.V4)[0], harness.V4.client if (action, source) != (
                        "proxy", "masquerade") else harness.V4.wan)
                    self.restart()


if __name__ == "__main__":
    harness.main()
