# SPDX-License-Identifier: Apache-2.0
"""S1, S7 to S9 for UDP: the gateway's own ports, forged senders, injected answers, amplification."""
import functools
import ipaddress
import json
import socket
import threading
import time

import harness
import packets
import product
import udp_crowd
import udp_lab
from udp_case import PORT


class OwnServices(udp_lab.Case):
    def setUp(self):
        super().setUp()
        self.serve_udp()

    def start_all(self):
        self.tpx.start(product.config(default="proxy"))

    def service(self, family, port, address=None):
        """Answers each datagram on the gateway with who sent it."""
        sock = self.socket(family, port, address, self.lab.gateway)

        def answer():
            try:
                while True:
                    _, sender = sock.recvfrom(100)
                    sock.sendto(json.dumps(sender[:2]).encode(), sender)
            except OSError:
                pass
        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        return sock

    def test_S1_listening_port_takes_no_datagrams(self):
        self.start_all()
        for family in harness.FAMILIES:
            self.who(self.socket(family), family)
        port, before = self.tpx.listen_port(), self.total("udp_sessions_total")
        for family in harness.FAMILIES:
            for space, addresses in ((self.lab.client, (family.lan, family.wan)), (self.lab.server, (family.wan,)),
                                     (self.lab.gateway, (family.lan, family.wan, family.loopback))):
                for address in addresses:
                    with self.subTest(space=space.name[-1], address=address):
                        sock = self.socket(family, space=space)
                        for _ in range(5):  # of which explain says no more than that the gateway is meant
                            sock.sendto(b"E", (address, port))
                        self.assert_silence(sock, 0.1)
        self.assertEqual(self.total("udp_sessions_total"), before)
        self.assertGreaterEqual(self.tpx.reasons()["lk_listener_dialled"], 2 * 6 * 5)
        for family in harness.FAMILIES:
            self.who(self.socket(family), family)

    def test_S1_listening_port_of_another_host_is_relayed(self):
        self.start_all()
        port = self.tpx.listen_port()
        self.serve_udp(port)
        for family in harness.FAMILIES:
            self.assertEqual(self.who(self.socket(family), family, port)[0], family.wan)

    def test_P12_service_on_the_gateway_is_not_intercepted(self):
        self.start_all()
        for family in harness.FAMILIES:
            for address in (family.lan, family.wan):
                with self.subTest(family=family.name, address=address):
                    self.service(family, 53, address)
                    sock = self.socket(family)
                    sock.sendto(b"question", (address, 53))
                    answer, sender = sock.recvfrom(100)
                    self.assertEqual(sender[:2], (address, 53))
                    self.assertEqual(json.loads(answer), [family.client, sock.getsockname()[1]])
                    self.assert_reason("own_address", (family.client, 50000), (address, 53), "udp")
        self.assertEqual(self.total("udp_sessions_total"), 0)

    def test_S3_loopback_is_out_of_reach(self):
        """Also where a rule redirects to it: only what the rule says, under its own address never."""
        self.start_all()
        caught = self.socket(harness.V4, 5353, "127.0.0.1", self.lab.gateway)
        with packets.Tap(self.lab.client, "c0") as tap:
            for destination in ("127.0.0.1", "0.0.0.0", "255.255.255.255", "224.0.0.251"):
                tap.send(frame(self.lab, harness.V4.client, destination, 5353))
                self.assert_reason("special_address", (harness.V4.client, 4444), (destination, 5353), "udp")
            harness.wait_until(lambda: self.tpx.reasons()["special_address"] >= 4, "they are counted")
        self.assert_silence(caught)
        self.assertEqual(self.total("udp_sessions_total"), 0)


def frame(lab, source, destination, port, sport=4444, payload=b"E", hops=64):
    """A datagram of anybody to anybody from the client's device to the gateway's."""
    family = udp_crowd.family_of(source)
    packet = udp_crowd.datagram(socket.inet_pton(family, source), sport, socket.inet_pton(family, destination), port,
                                payload, hops)
    if family == socket.AF_INET:
        packet = packet[:10] + packets.checksum(packet[:20]).to_bytes(2) + packet[12:]
    macs = mac(lab.gateway, "lan0") + mac(lab.client, "c0")
    return macs + (b"\x08\x00" if family == socket.AF_INET else b"\x86\xdd") + packet


@functools.cache
def mac(space, device):
    found = json.loads(space.run("ip", "-j", "link", "show", device).stdout)[0]["address"]
    return bytes.fromhex(found.replace(":", ""))


class Forged(udp_lab.Case):
    """The attacker has a link of its own to the gateway, and the server side another address."""

    NETS = {harness.V4: ("192.0.2.129", "192.0.2.130"), harness.V6: ("2001:db8:3::1", "2001:db8:3::2")}

    def setUp(self):
        super().setUp()
        self.server = self.serve_udp()
        self.attacker = self.lab.namespace("a")
        self.lab.link(self.attacker, "a0", self.lab.gateway, "lan1")
        for family, (near, own) in self.NETS.items():
            bits, nodad = ("30", "") if family is harness.V4 else ("64", " nodad")
            self.lab.gateway.ip(f"addr add {near}/{bits} dev lan1{nodad}")
            self.attacker.ip(f"addr add {own}/{bits} dev a0{nodad}", f"route add default via {near}")

    def start_wide(self, *rules, **options):
        self.start_udp(*rules, **options, interfaces={"lan": ["lan0", "lan1"], "wan": ["wan0"]})

    def forge(self, space, family, source, sport, to, payload=b"E"):
        with space.socket(family.af, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
            raw.sendto(udp_crowd.datagram(socket.inet_pton(family.af, source), sport,
                                          socket.inet_pton(family.af, to[0]), to[1], payload), (to[0], 0))

    def test_S7_answers_go_to_the_client_whoever_forges_its_datagrams(self):
        for source in ("masquerade", "preserve"):
            self.start_wide(source=source)
            for family in harness.FAMILIES:
                with self.subTest(source=source, family=family.name):
                    client = self.socket(family)
                    seen = self.who(client, family)
                    with udp_lab.Capture(self.attacker, "a0") as capture:
                        for _ in range(10):
                            self.forge(self.attacker, family, family.client, client.getsockname()[1],
                                       (family.server, PORT), b"Eforged")
                        for number in range(10):
                            question = b"E%d" % number
                            client.sendto(question, (family.server, PORT))
                            while (answer := client.recv(100)) == b"Eforged":
                                pass
                            self.assertEqual(answer, question)
                        self.assertEqual(self.who(client, family), seen, "the session moved")
                        diverted = [d for outgoing, d in capture.take()
                                    if not outgoing and d.proto == socket.IPPROTO_UDP]
                    self.assertEqual(diverted, [])
                    # one of its own is another session, though the port is the same
                    own = self.socket(family, client.getsockname()[1], space=self.attacker)
                    self.assertNotEqual(self.who(own, family), seen)
            self.assertEqual(self.tpx.stop(), 0)
            self.tpx.detach()

    def test_S8_only_the_server_answers_where_the_mapping_says_so(self):
        """Neither others nor the server's other ports get through to a client."""
        for source in ("masquerade", "preserve"):
            self.start_wide(product.udp_rule(mapping="address-and-port-dependent"), source=source)
            for family in harness.FAMILIES:
                with self.subTest(source=source, family=family.name):
                    client = self.socket(family)
                    upstream = self.who(client, family)
                    for other in self.others(family):
                        other.sendto(b"injected", upstream)
                    self.forge(self.lab.server, family, self.elsewhere(family), PORT, upstream, b"injected")
                    if source == "masquerade":
                        self.assert_silence(client)
                    else:
                        self.assert_own_name(client, family)
                    self.assertEqual(self.who(client, family), upstream)
            self.assertEqual(self.tpx.stop(), 0)
            self.tpx.detach()

    def assert_own_name(self, client, family):
        """Its address is the client's own: routing brings it everything, but nothing as from the server's port."""
        client.settimeout(0.5)
        try:
            while True:
                self.assertNotEqual(client.recvfrom(100)[1][:2], (family.server, PORT))
        except TimeoutError:
            client.settimeout(5)

    @staticmethod
    def elsewhere(family):
        return "198.51.100.77" if family is harness.V4 else "2001:db8:2::77"

    def others(self, family):
        """Another port of the server; the attacker."""
        return self.socket(family, space=self.lab.server), self.socket(family, space=self.attacker)

    def test_S8_reply_sockets_take_nothing(self):
        """A server in the clients' net: the proxy speaks for it to one side, the other side goes on to reach it."""
        self.serve_udp(PORT, space=self.lab.client)
        self.start_wide()
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                asking = self.socket(family, space=self.attacker)
                asking.sendto(b"E", (family.client, PORT))
                self.assertEqual(asking.recvfrom(10)[1][:2], (family.client, PORT))
                self.assertGreaterEqual(self.total("udp_reply_sockets"), 1)
                self.assert_explained("proxy", (self.NETS[family][1], 50000), (family.client, PORT), "udp",
                                      more=("--in", "lan1"))
                outside = self.socket(family, space=self.lab.server)
                for _ in range(3):
                    outside.sendto(b"W", (family.client, PORT))
                    self.assertEqual(tuple(json.loads(outside.recv(100)))[0], family.server)


class Amplification(udp_lab.Case):
    """S9: what goes to a forged sender is no more than a router without the proxy would send."""

    COUNT = 300
    RESOLVING = 4  # seconds for which the kernel looks for a neighbour that is not there

    def setUp(self):
        super().setUp()
        self.serve_udp()

    def flood(self, family, victim, destination, port, payload, hops):
        """COUNT datagrams in the victim's name."""
        with packets.Tap(self.lab.client, "c0") as tap:
            for number in range(self.COUNT):
                tap.send(frame(self.lab, victim, destination, port, 20_000 + number % 100, payload, hops))
                if number % 20 == 0:
                    time.sleep(0.01)

    def cases(self, family):
        away = "198.51.100.99" if family is harness.V4 else "2001:db8:2::99"
        return {"nobody there": (away, PORT, b"E" * 100, 64), "answered": (family.server, PORT, b"E" * 100, 64),
                "silent": (family.server, PORT, b"S" * 100, 64), "closed port": (family.server, 9, b"E" * 100, 64),
                "last hop": (family.server, PORT, b"E" * 100, 1)}

    def victims(self):
        """One for each case, so that none uses up another's share of what is limited by address."""
        return {(family, name): str(ipaddress.ip_network(udp_lab.CROWD_NETS[family])[77 + number])
                for family in harness.FAMILIES for number, name in enumerate(self.cases(family))}

    def bytes_to_victims(self):
        """What the gateway sends to each."""
        found = {case: 0 for case in self.victims()}
        names = {victim: case for case, victim in self.victims().items()}
        with udp_lab.Capture(self.lab.gateway, "lan0") as capture:
            for (family, name), victim in self.victims().items():
                self.flood(family, victim, *self.cases(family)[name])
            time.sleep(self.RESOLVING)
            for outgoing, datagram in capture.take():
                if outgoing and datagram.dst in names:
                    found[names[datagram.dst]] += datagram.length
        return found

    @staticmethod
    def slack(family, case):
        """Errors are limited as the kernel does: a few at once, then one each second, so time matters a little."""
        an_error = 28 + 28 + 100 if family is harness.V4 else 48 + 48 + 100
        return 0 if case in ("answered", "silent") else 3 * an_error

    def measure(self, action, source):
        self.tpx.start(product.config([product.udp_rule(action)], source=source))
        found = self.bytes_to_victims()
        self.assertEqual(self.tpx.stop(), 0)
        self.tpx.detach()
        return found

    def test_S9_no_more_than_forwarding_sends(self):
        forwarded = self.measure("bypass", "masquerade")
        for source in ("masquerade", "preserve"):
            for (family, case), count in self.measure("proxy", source).items():
                with self.subTest(source=source, family=family.name, case=case):
                    limit = forwarded[family, case]
                    print(f"{source} {family.name} {case}: {count} bytes, forwarded {limit}", flush=True)
                    self.assertGreater(limit, 0 if case != "silent" else -1)
                    self.assertLessEqual(count, limit + self.slack(family, case))


if __name__ == "__main__":
    harness.main()
