# SPDX-License-Identifier: Apache-2.0
"""DNS with a real resolver: redirected to the gateway's own, and proxied to one elsewhere. Redirected TCP."""
import shutil
import socket
import struct
import subprocess
import unittest

import harness
import product
import udp_crowd
import udp_lab

SOL_PACKET, PACKET_STATISTICS = 263, 6  # not in Python's socket module
RESOLVER_PORT = 5353
ANYWHERE = {harness.V4: "198.51.100.53", harness.V6: "2001:db8:2::53"}  # nobody has these
CONFIG = """
server:
  directory: "{folder}"
  chroot: ""
  username: ""
  pidfile: ""
  use-syslog: no
  do-daemonize: no
  module-config: "iterator"
  do-not-query-localhost: no
  access-control: 0.0.0.0/0 allow
  access-control: ::/0 allow
  {interfaces}
  {data}
remote-control:
  control-enable: no
{forward}
"""
DATA = """
  local-zone: "example.test." redirect
  local-data: "example.test. A 192.0.2.80"
"""
FORWARD = """
server:
  local-zone: "test." nodefault
forward-zone:
  name: "."
  forward-addr: {}@53
"""


def redirect_rules():
    return [product.rule({"redirect": f"{target}:{RESOLVER_PORT}"}, f"dns-{name}",
                         {"proto": ["udp", "tcp"], "dst": net, "dport": 53})
            for name, target, net in (("v4", "127.0.0.1", "0.0.0.0/0"), ("v6", "[::1]", "::/0"))]


@unittest.skipUnless(shutil.which("unbound"), "no unbound")
class Dns(udp_lab.Case):
    def resolver(self, space, port, addresses, forward_to=None):
        """unbound at these addresses; answers itself, or asks another."""
        folder = self.tpx.folder / f"unbound-{space.name[-1]}"
        folder.mkdir(exist_ok=True)
        config = folder / "unbound.conf"
        config.write_text(CONFIG.format(
            folder=folder, interfaces="\n  ".join(f"interface: {address}@{port}" for address in addresses),
            data="" if forward_to else DATA, forward=FORWARD.format(forward_to) if forward_to else ""))
        with (folder / "log").open("w") as log:
            process = space.popen("unbound", "-d", "-c", config, stdout=log, stderr=subprocess.STDOUT)
        self.addCleanup(harness.end, process)
        harness.wait_until(lambda: self.answers(space, addresses[-1], port) or process.poll() is not None,
                           "unbound answers")
        self.assertIsNone(process.poll(), (folder / "log").read_text())
        return process

    def answers(self, space, address, port):
        with space.socket(udp_crowd.family_of(address), socket.SOCK_DGRAM) as sock:
            sock.settimeout(1)
            try:
                return self.query(sock, address, port)
            except OSError:
                return False

    number = 0
    verdict = "proxy"  # on the clients' queries

    def query(self, sock, address, port=53):
        """Whether the right answer comes, from the address that was asked: a connected socket takes no other."""
        Dns.number += 1
        question = udp_crowd.dns_query(self.number)
        sock.connect((address, port))
        sock.send(question)
        answer = sock.recv(4096)
        if sock in self.clients:
            self.assert_explained(self.verdict, sock.getsockname()[:2], (address, port), "udp", chosen=False)
        return udp_crowd.is_dns_answer(question, answer)

    def query_tcp(self, family, address):
        Dns.number += 1
        question = udp_crowd.dns_query(self.number)
        with self.lab.client.connect(family, address, 53) as sock:
            self.assertEqual(sock.getpeername()[:2], (address, 53))
            sock.sendall(len(question).to_bytes(2) + question)
            answer = product.receive(sock, int.from_bytes(product.receive(sock, 2)))
        self.assert_explained(self.verdict, (family.client, 50000), (address, 53))
        return udp_crowd.is_dns_answer(question, answer)

    def ask_all(self):
        """By UDP and TCP, of a server that exists and of one that does not."""
        for family in harness.FAMILIES:
            for address in (family.server, ANYWHERE[family]):
                with self.subTest(family=family.name, address=address):
                    self.assertTrue(self.query(self.socket(family), address))
                    self.assertTrue(self.query_tcp(family, address))

    @staticmethod
    def to_port_53(capture):
        return [d for outgoing, d in capture.take() if outgoing and d.ports and d.ports[1] == 53]

    def start_redirected(self, **options):
        self.verdict = "redirect"
        self.tpx.start(product.config([*redirect_rules(), product.rule(), product.udp_rule()], **options))

    def test_redirected_to_a_resolver_on_the_gateway(self):
        self.resolver(self.lab.gateway, RESOLVER_PORT, ["127.0.0.1", "::1"])
        self.start_redirected()
        with udp_lab.Capture(self.lab.gateway, "wan0") as capture:
            self.ask_all()
            self.assertEqual(self.to_port_53(capture), [], "clients' queries left the gateway")
        hits = self.tpx.rules()
        self.assertGreaterEqual(min(hits["dns-v4"], hits["dns-v6"]), 4)
        self.assertEqual(self.total("udp_dropped") + self.total("udp_undecided"), 0)

    def test_redirected_to_a_resolver_that_asks_another(self):
        """The gateway's own queries are nobody's to redirect."""
        self.resolver(self.lab.server, 53, [f.server for f in harness.FAMILIES])
        for forward_to in (f.server for f in harness.FAMILIES):
            with self.subTest(forward_to=forward_to):
                forwarder = self.resolver(self.lab.gateway, RESOLVER_PORT, ["127.0.0.1", "::1"], forward_to)
                self.start_redirected()
                with udp_lab.Capture(self.lab.gateway, "wan0") as capture:
                    self.ask_all()
                    senders = {d.src for d in self.to_port_53(capture)}
                self.assertEqual(senders, {harness.V6.wan if ":" in forward_to else harness.V4.wan})
                self.assertEqual(self.tpx.stop(), 0)
                harness.end(forwarder)

    def many_queries(self, rounds):
        """From 10,000 ports of each family."""
        ports = harness.scaled(10_000)
        for family in harness.FAMILIES:
            crowd = self.crowd()
            crowd.do("open", addresses=[family.client], ports=ports, kind="dns")
            for _ in range(rounds):
                self.assertEqual(crowd.do("ask", to=[family.server, 53], window=50),
                                 {"answered": ports, "strangers": 0, "wrong": 0, "silent": 0, "errors": 0},
                                 self.tpx.totals())
            crowd.close()
        self.assertGreaterEqual(self.total("udp_datagrams_up"), 2 * rounds * ports)
        self.assertEqual(self.total("udp_dropped") + self.total("udp_shortage"), 0)

    LIMITS = {"max_udp_sessions": 14_000, "max_udp_sessions_per_client": 7_000}

    def test_100000_redirected_queries_are_answered_by_the_gateway(self):
        """The resolver asks nobody, so that all on the WAN would be a client's, also as the gateway."""
        self.resolver(self.lab.gateway, RESOLVER_PORT, ["127.0.0.1", "::1"])
        self.resolver(self.lab.server, 53, [f.server for f in harness.FAMILIES])  # would answer what gets there
        self.start_redirected(proxy=self.LIMITS)
        with udp_lab.Capture(self.lab.gateway, "wan0") as capture:
            own = self.own_queries()
            self.many_queries(5)
            own += self.own_queries()
            # all that came fitted, and the gateway's own queries, first and last, are seen
            self.assertEqual(self.lost(capture), 0, "the capture is not whole")
            sent = [(d.src, d.ports[0]) for d in self.to_port_53(capture)]
        self.assertEqual(sent[:9], own, "clients' queries left the gateway")
        hits = self.tpx.rules()
        self.assertGreaterEqual(min(hits["dns-v4"], hits["dns-v6"]), harness.scaled(10_000))

    def own_queries(self):
        """The gateway itself asks the server: from where."""
        ends = []
        for family in harness.FAMILIES:
            sock = self.socket(family, space=self.lab.gateway)
            self.assertTrue(self.query(sock, family.server))
            ends.append(sock.getsockname()[:2])
        return ends

    @staticmethod
    def lost(capture):
        return struct.unpack("=II", capture.sock.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))[1]

    def test_20000_proxied_queries_are_answered(self):
        self.resolver(self.lab.server, 53, [f.server for f in harness.FAMILIES])
        self.start_udp(proxy=self.LIMITS)
        self.many_queries(1)

    def test_U9_answered_queries_are_soon_forgotten(self):
        self.resolver(self.lab.server, 53, [f.server for f in harness.FAMILIES])
        for mapping in ("endpoint-independent", "address-and-port-dependent"):
            with self.subTest(mapping=mapping):
                self.start_udp(product.udp_rule(mapping=mapping),
                               proxy={"udp_answered": "1s", "udp_one_way": "60s", "udp_stream": "60s"})
                for family in harness.FAMILIES:
                    self.assertTrue(self.query(self.socket(family), family.server))
                self.assertEqual(self.total("udp_sessions_total"), 2)
                harness.wait_until(lambda: self.total("udp_sessions") == 0, "they are forgotten")
                self.assertEqual(self.tpx.stop(), 0)
                self.tpx.detach()


class RedirectedTcp(product.TestCase):
    PORT, LOCAL_PORT = 8080, 8053

    def test_tcp_to_a_service_on_the_gateway(self):
        self.tpx.start(product.config(
            [product.rule({"redirect": f"{target}:{self.LOCAL_PORT}"}, name, {"dst": net, "dport": self.PORT})
             for name, target, net in (("v4", "127.0.0.1", "0.0.0.0/0"), ("v6", "[::1]", "::/0"))]))
        for family in harness.FAMILIES:
            with self.lab.gateway.listen(family, self.LOCAL_PORT, family.loopback) as listener:
                for address in (family.server, ANYWHERE[family]):
                    with self.subTest(family=family.name, address=address):
                        self.assert_explained("redirect", (family.client, 50000), (address, self.PORT))
                        with self.lab.client.connect(family, address, self.PORT) as client:
                            service, _ = listener.accept()
                            with service:
                                self.assertEqual(client.getpeername()[:2], (address, self.PORT))
                                client.sendall(b"question")
                                self.assertEqual(product.receive(service, 8), b"question")
                                service.sendall(b"answer")
                                self.assertEqual(product.receive(client, 6), b"answer")
                                client.shutdown(socket.SHUT_WR)
                                self.assertEqual(service.recv(1), b"")

    def test_tcp_without_the_service_is_refused(self):
        self.tpx.start(product.config(
            [product.rule({"redirect": f"{f.loopback if f is harness.V4 else '[::1]'}:{self.LOCAL_PORT}"}, f.name,
                          {"dst": f.server_net}) for f in harness.FAMILIES]))
        for family in harness.FAMILIES:
            with self.subTest(family=family.name), self.assertRaises((ConnectionResetError, ConnectionRefusedError)):
                self.assert_explained("redirect", (family.client, 50000), (family.server, self.PORT))
                with self.lab.client.connect(family, family.server, self.PORT) as sock:
                    sock.recv(1) or self.fail("a clean end")


if __name__ == "__main__":
    harness.main()
