# SPDX-License-Identifier: Apache-2.0
"""L1 to L5, L7 and more: what becomes of translated UDP sessions when the network, the policy or the proxy changes."""
import signal
import time

import harness
import product
import udp_case
from udp_case import PORT
from udp_translated_case import HEARD_PORT, TranslatedCase, fib_rule

LEASE = 1.0
MARGIN = 1.0  # for a loaded machine
FORGETS_AFTER = 25  # seconds; more than what the worker gets one datagram in


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
                    self.assertEqual(self.ask(sock, family, b"E"), b"E")
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
                udp_case.drain(sock, 0.3)
                self.assertEqual(self.hand_over(sock, family)[0], other)

    def second_ways(self):
        """Another link to the server: the family, the gateway's address there and the server's."""
        self.lab.link(self.lab.server, "s1", self.lab.gateway, "wan1")
        self.start_fib(interfaces={"lan": ["lan0"], "wan": ["wan0", "wan1"]})
        for family in harness.FAMILIES:
            ours, theirs = (udp_case.far_address(family, n) for n in (1, 2))
            self.lab.address(self.lab.gateway, "wan1", family, ours)
            self.lab.address(self.lab.server, "s1", family, theirs)
            yield family, ours, theirs

    def test_another_way_out(self):
        """The gateway's address is that of the new way, as for a new session."""
        for family, ours, theirs in self.second_ways():
            with self.subTest(family=family.name):
                client, server = self.session_with(family)
                self.assertEqual(self.seen[0], family.wan)
                self.lab.gateway.ip(f"route add {family.server} via {theirs}")
                for _ in range(3):
                    self.exchange(client, server, family)
                    self.assertEqual(self.seen[0], ours)
                harness.wait_until(lambda c=client, s=server, f=family: self.count_exchange(c, s, f) == 2,
                                   "tc forwards it that way")
                self.assertEqual(self.seen[0], ours)
                server.close()

    def test_routes_by_the_mark_of_the_proxy_are_left_to_the_stack(self):
        for family, ours, theirs in self.second_ways():
            with self.subTest(family=family.name):
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

    def test_reload_without_it(self):
        """--existing says what becomes of sessions that tc forwards; none is cut."""
        self.start_fib()
        socks, seen = self.both()
        self.tpx.reload(product.config([product.udp_rule(forward="stack")]))
        for family, sock in socks.items():
            self.check_translated(sock, family)
        self.tpx.reload(product.config([fib_rule()]))
        self.tpx.write(product.config([product.udp_rule(forward="stack")]))
        difference = self.tpx.json("explain", "--diff", self.tpx.config)
        self.assertEqual([(flow["now"]["forward"], flow["then"]["forward"]) for flow in difference["flows"]],
                         [("fib", "stack")] * 2)
        self.tpx.reload(extra=["--existing", "abort"])
        before = self.translated()
        for family, sock in socks.items():
            for _ in range(40):
                self.assertEqual(self.who(sock, family), seen[family])
        self.assertEqual(self.translated(), before)

    def test_connection_tracking_and_neighbours_see_that_it_goes_on(self):
        """Or a firewall would take what tc leaves to the worker for something new."""
        self.lab.gateway.nft("table inet fw { chain in { type filter hook input priority 0; "
                             "iifname wan0 ct state new counter drop } }")
        self.lab.gateway.sysctl("net/netfilter/nf_conntrack_udp_timeout_stream", FORGETS_AFTER)
        self.start_fib()
        pairs = {family: self.session_with(family) for family in harness.FAMILIES}
        seen = {}
        end = time.monotonic() + FORGETS_AFTER + 6
        while time.monotonic() < end:
            for family, (client, server) in pairs.items():
                self.exchange(client, server, family)
                seen[family] = self.seen
            time.sleep(0.2)
        for family, (client, server) in pairs.items():
            server.sendto(b"f" * 4000, seen[family])
            self.assertEqual(len(client.recv(65536)), 4000, "fragments go to the worker")

    def test_ages_with_what_tc_forwards(self):
        self.start_fib(proxy={"udp_stream": "3s"})
        descriptors = self.descriptors()
        socks, seen = self.both()
        end, asked, before = time.monotonic() + 5, 0, self.translated()
        while time.monotonic() < end:
            for family, sock in socks.items():
                self.ask(sock, family, b"E")
                asked += 1
            time.sleep(0.1)
        self.assertGreaterEqual(self.translated() - before, 2 * asked - 4, "but for one of each direction in 20 s")
        self.assertEqual({family: self.who(sock, family) for family, sock in socks.items()}, seen)
        self.assertEqual(self.total("udp_sessions_aged"), 0)
        harness.wait_until(lambda: self.total("udp_sessions") == 0, "the sessions end", 10, step=0.5)
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
        harness.wait_until(lambda: self.entries() == 0, "tc has none of them", 20, step=1)
        self.assertEqual(self.total("udp_translated"), 0)
        for family, sock in socks.items():
            self.assertEqual(self.hand_over(sock, family), seen[family], "the session went on")


class Failing(TranslatedCase):
    def outcome(self, sock, family, seconds=5.0):
        udp_case.drain(sock)
        sock.settimeout(seconds)
        try:
            sock.sendto(b"W", (family.server, PORT))
            return sock.recv(100).decode()
        except TimeoutError:
            return None
        except ConnectionRefusedError:
            return "refused"

    def connected_pair(self, port=0):
        socks = {}
        for family in harness.FAMILIES:
            socks[family] = self.socket(family, port)
            socks[family].connect((family.server, PORT))
            self.hand_over(socks[family], family)
        return socks

    def test_L1_L2_L3_killed(self):
        """A fail mode for each port of the client's."""
        ports = {"open": 41001, "closed": 41002, "reset": 41003}
        self.start_fib(*(fib_rule(name=mode, match={"sport": port}, on_proxy_down=mode)
                         for mode, port in ports.items()))
        socks = {mode: self.connected_pair(port) for mode, port in ports.items()}
        self.tpx.crash()
        time.sleep(LEASE + MARGIN)
        before = self.translated()
        for mode, pair in socks.items():
            for family, sock in pair.items():
                with self.subTest(mode=mode, family=family.name):
                    seen = self.outcome(sock, family, 0.5 if mode == "closed" else 5.0)
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
        self.tpx.kill(signal.SIGSTOP)
        try:
            time.sleep(LEASE + MARGIN)
            self.assertEqual({self.outcome(sock, family, 0.5) for family, sock in socks.items()}, {None})
        finally:
            self.tpx.kill(signal.SIGCONT)
        for family, sock in socks.items():
            harness.wait_until(lambda s=sock, f=family: self.outcome(s, f, 0.5), "it goes on")

    def test_L7_drains_while_tc_forwards(self):
        self.start_fib(proxy={"drain_timeout": "30s"})
        socks = self.connected_pair()
        self.tpx.kill(signal.SIGTERM)
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
