# SPDX-License-Identifier: Apache-2.0
"""Gateways as they are found: strict filters, connection tracking, bridges, other programs, forced SYN cookies."""
import shutil
import time
import unittest

import harness
import product

CONNTRACK = """table inet fw {
  chain forward { type filter hook forward priority 0; policy drop;
    ct state invalid drop
    ct state established,related accept
    iifname "lan0" ct state new accept }
  chain input { type filter hook input priority 0; policy accept;
    ct state invalid drop }
  chain output { type filter hook output priority 0; policy accept;
    ct state invalid drop }
}"""
NAT = """table ip nat {
  chain post { type nat hook postrouting priority 100;
    oifname "wan0" masquerade }
}"""


class Environment(product.TestCase):
    def setUp(self):
        super().setUp()
        self.server = self.lab.serve()

    def move(self, family, space=None, total=8 << 20):
        peer = self.lab.peer(space or self.lab.client, "transfer", family.server, 8080, "--count", 4,
                             "--bytes", harness.scaled(total))
        results = peer.read(120)
        for result in results:
            self.assertIsNone(result["error"])
            self.assertTrue(result["up_ok"] and result["down_ok"])
        return results

    def check_modes(self, **options):
        """Both source modes, both families, and direct again after the end."""
        for source in ("masquerade", "preserve"):
            self.tpx.start(product.config(source=source, **options))
            for family in harness.FAMILIES:
                with self.subTest(source=source, family=family.name, **options):
                    expected = family.wan if source == "masquerade" else family.client
                    before = self.tpx.totals()["sessions_total"]
                    self.assertEqual({r["seen"][0] for r in self.move(family)}, {expected})
                    self.assertEqual(self.tpx.totals()["sessions_total"] - before, 4)
            self.assertEqual(self.tpx.stop(), 0)
            self.tpx.detach()
        for family in harness.FAMILIES:
            self.lab.who(family)

    def test_src_valid_mark(self):
        for scope in ("all", "lan0", "wan0"):
            self.lab.gateway.sysctl(f"net/ipv4/conf/{scope}/src_valid_mark", 1)
        self.check_modes()

    def test_strict_reverse_path_filter(self):
        for scope in ("all", "default", "lan0", "wan0", "lo"):
            self.lab.gateway.sysctl(f"net/ipv4/conf/{scope}/rp_filter", 1)
        self.check_modes()

    def test_strict_reverse_path_filter_and_src_valid_mark(self):
        for scope in ("all", "default", "lan0", "wan0", "lo"):
            self.lab.gateway.sysctl(f"net/ipv4/conf/{scope}/rp_filter", 1)
            self.lab.gateway.sysctl(f"net/ipv4/conf/{scope}/src_valid_mark", 1)
        self.check_modes()

    @unittest.skipUnless(shutil.which("nft"), "needs nft")
    def test_connection_tracking_that_drops_invalid(self):
        self.lab.gateway.nft(CONNTRACK)
        self.check_modes()

    @unittest.skipUnless(shutil.which("nft"), "needs nft")
    def test_connection_tracking_appears_while_running(self):
        self.tpx.start(product.config(source="preserve"))
        for family in harness.FAMILIES:
            self.assert_direct(family)  # as the server sees it: the client's address
        self.lab.gateway.nft(CONNTRACK)
        time.sleep(2)  # the documented time to notice
        for family in harness.FAMILIES:
            self.move(family)

    @unittest.skipUnless(shutil.which("nft"), "needs nft")
    def test_nat_for_direct_flows(self):
        """Where the gateway masquerades by itself, flows that go direct are translated as ever."""
        self.lab.gateway.nft(NAT)
        self.tpx.start()
        self.assert_proxied(harness.V4)
        self.tpx.crash()
        self.assertEqual(self.lab.who(harness.V4, asks=False)[0], harness.V4.wan)
        self.assert_explained("direct", (harness.V4.client, 50000), (harness.V4.server, 8080))

    def test_reverse_filter_of_foreign_mark_rules(self):
        """Somebody else's policy routing by other mark bits goes on."""
        self.lab.gateway.ip("rule add fwmark 0x1/0xff lookup 77 priority 50", "route add blackhole default table 77")
        self.check_modes()

    def bridge(self):
        """lan0 becomes a port of br0, which has the addresses."""
        self.lab.gateway.ip("link add br0 type bridge", "link set lan0 master br0", "addr flush dev lan0",
                            "link set br0 up")
        for family in harness.FAMILIES:
            self.lab.address(self.lab.gateway, "br0", family, family.lan)

    def test_bridge_as_lan_device(self):
        self.bridge()
        for family in harness.FAMILIES:
            harness.wait_until(lambda f=family: self.lab.who(f, asks=False), "the bridge forwards")
        self.check_modes(interfaces={"lan": ["br0"], "wan": ["wan0"]})

    def test_device_patterns(self):
        self.check_modes(interfaces={"lan": ["lan*"], "wan": ["w?n0"]})

    def test_without_wan_device(self):
        """Masquerading needs none."""
        self.tpx.start(product.config(interfaces={"lan": ["lan0"]}))
        for family in harness.FAMILIES:
            self.move(family)
            self.assert_proxied(family)

    def test_forced_syn_cookies(self):
        self.lab.gateway.sysctl("net/ipv4/tcp_syncookies", 2)
        for attach in ("tcx", "clsact"):
            for source in ("masquerade", "preserve"):
                self.tpx.start(product.config(source=source, steering={"attach": attach}))
                for family in harness.FAMILIES:
                    with self.subTest(attach=attach, source=source, family=family.name):
                        peer = self.lab.peer(self.lab.client, "burst", family.server, 8080,
                                             "--count", harness.scaled(500, 50))
                        self.assertEqual(peer.read(120)["failures"], {})
                        (self.assert_proxied if source == "masquerade" else self.assert_direct)(family)
                self.assertGreater(self.tpx.reasons()["cookie"], 0, "cookies were not forced")
                self.assertEqual(self.tpx.stop(), 0)
                self.tpx.detach()

    def test_forced_syn_cookies_fail_open(self):
        self.lab.gateway.sysctl("net/ipv4/tcp_syncookies", 2)
        self.tpx.load()
        for family in harness.FAMILIES:
            peer = self.lab.peer(self.lab.client, "burst", family.server, 8080, "--count", 50)
            self.assertEqual(peer.read(60)["failures"], {})
            self.assert_direct(family)

    def test_connections_that_began_direct_stay_direct(self):
        for attach in ("tcx", "clsact"):
            holders = {f: self.lab.peer(self.lab.client, "hold", f.server, 8080, "--count", 10)
                       for f in harness.FAMILIES}
            for family, holder in holders.items():
                self.assertEqual(holder.read()["sources"], {family.client: 10})
            self.tpx.write(product.config(steering={"attach": attach}))
            for act in (self.tpx.load, self.tpx.start, self.tpx.reload, self.tpx.stop, self.tpx.start,
                        self.tpx.crash, self.tpx.detach):
                act()
                for family, holder in holders.items():
                    with self.subTest(attach=attach, after=act.__name__, family=family.name):
                        self.assertEqual(holder.ask("check"), {"ok": 10})

    def test_own_addresses_change(self):
        """A new address of the gateway is its own at once; one that goes is not any more."""
        self.tpx.start()
        listener = self.lab.gateway.listen(harness.V4, 22)
        self.addCleanup(listener.close)
        for _ in range(3):
            self.lab.gateway.ip("addr add 203.0.113.1/24 dev wan0")
            harness.wait_until(lambda: self.answers("203.0.113.1", 22), "the new address is the gateway's")
            self.assert_reason("own_address", (harness.V4.client, 50000), ("203.0.113.1", 22))
            self.lab.gateway.ip("addr del 203.0.113.1/24 dev wan0")
        self.assertEqual(self.tpx.totals()["connect_failed"], 0)

    def answers(self, address, port):
        try:
            with self.lab.client.connect(harness.V4, address, port, timeout=1) as sock:
                return sock.getpeername()[0] == address
        except OSError:
            return False


if __name__ == "__main__":
    harness.main()
