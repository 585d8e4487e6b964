# SPDX-License-Identifier: Apache-2.0
"""Early drop by XDP: before netfilter and packet taps, where it pays, and never in anybody's way."""
import json
import shutil
import socket
import unittest

import harness
import packets
import product
import state
from xdp_case import BOTH, DROPPED, XdpCase, dropping

CLANG = shutil.which("clang")


class Xdp(XdpCase):
    def early(self, device="lan0"):
        """What the status says of a device: xdp, why, attached."""
        found = {entry["device"]: entry for entry in self.tpx.status()["early_drop"]}
        return found[device]

    def place(self, device="lan0"):
        entry = self.early(device)
        self.assertEqual(entry["attached"], entry["xdp"] != "none")
        self.assertEqual(self.kernel(device)[0], entry["xdp"])
        return entry["xdp"]

    def kernel(self, device="lan0"):
        """Where a program runs as the kernel says, and its id."""
        link = json.loads(self.lab.gateway.run("ip", "-j", "-d", "link", "show", device).stdout)[0]
        mode = {None: "none", 1: "native", 2: "generic"}[link.get("xdp", {}).get("mode")]
        return mode, link.get("xdp", {}).get("prog", {}).get("id")

    def count_in_netfilter(self):
        self.lab.gateway.nft(f"""table inet early {{ counter seen {{}} chain pre {{ type filter hook prerouting priority -400;
            meta l4proto {{ tcp, udp }} th dport {DROPPED} counter name seen }}}}
            table netdev early {{ counter seen {{}} chain in {{ type filter hook ingress device lan0 priority -400;
            meta l4proto {{ tcp, udp }} th dport {DROPPED} counter name seen }}}}""")

    def in_netfilter(self):
        listed = json.loads(self.lab.gateway.run("nft", "-j", "list", "counters").stdout)["nftables"]
        return sum(entry["counter"]["packets"] for entry in listed if "counter" in entry)

    def test_drops_before_taps_and_netfilter(self):
        self.count_in_netfilter()
        for attach in ("tcx", "clsact"):
            for mode in ("native", "generic"):
                with self.subTest(attach=attach, mode=mode):
                    self.tpx.start(dropping(mode, steering={"attach": attach}))
                    self.assertEqual(self.place(), mode)
                    before = self.tpx.reasons().get("rule_drop", 0), self.tpx.rules()["no"]
                    self.assertEqual(self.syns_seen(), 0, "XDP let it through")
                    self.assertEqual(self.in_netfilter(), 0)
                    after = self.tpx.reasons()["rule_drop"], self.tpx.rules()["no"]
                    self.assertGreaterEqual(after[0] - before[0], 42)
                    self.assertEqual(after[0] - before[0], after[1] - before[1])
                    for family in harness.FAMILIES:
                        self.assert_proxied(family)
                    self.tpx.reload(dropping("off", steering={"attach": attach}))
                    self.assertGreater(self.syns_seen(), 0, "without XDP a tap sees what tc drops")
                    self.assertEqual(self.in_netfilter(), 0)
                    self.assertEqual(self.tpx.stop(), 0)
                    self.tpx.detach()

    def test_flows_that_are_known_go_on(self):
        self.tpx.start(product.config([product.rule(), product.udp_rule("bypass")], xdp="native"))
        self.assertEqual(self.place(), "none")
        pairs = [self.pair(family) for family in harness.FAMILIES]
        flows = []
        for family in harness.FAMILIES:
            server = self.lab.server.socket(family.af, socket.SOCK_DGRAM)
            client = self.lab.client.socket(family.af, socket.SOCK_DGRAM)
            for sock in (server, client):
                self.addCleanup(sock.close)
                sock.settimeout(5)
            server.bind((family.server, DROPPED))
            client.sendto(b"first", (family.server, DROPPED))
            self.assertEqual(server.recv(100), b"first")
            flows.append((family, client, server))
        self.tpx.reload(product.config([product.rule("drop", "all", {"proto": ["tcp", "udp"]})], xdp="native"))
        self.assertEqual(self.place(), "native")
        for client, server in pairs:
            client.sendall(b"more")
            self.assertEqual(product.receive(server, 4), b"more")
            server.sendall(b"back")
            self.assertEqual(product.receive(client, 4), b"back")
        for family, client, server in flows:
            client.sendto(b"again", (family.server, DROPPED))
            self.assertEqual(server.recv(100), b"again")
        self.assertEqual(self.syns_seen(), 0)

    def test_a_source_in_its_penalty_is_dropped_early(self):
        self.tpx.start(product.config([product.rule(limit={"rate": 1, "burst": 1, "penalty": "1m"})], xdp="generic"))
        self.assertEqual(self.place(), "generic")
        for family in harness.FAMILIES:
            self.assert_proxied(family)
            # Explain judges a flow by itself: what its source began before is no part of it.
            with self.assertRaises(TimeoutError):
                self.lab.client.connect(family, family.server, 8080, timeout=0.2)
        self.assertEqual(self.tpx.reasons()["rate_limited"], 2)
        before = self.tpx.reasons().get("rate_penalty", 0)
        with packets.Tap(self.lab.gateway, "lan0") as tap:
            for family in harness.FAMILIES:
                with self.assertRaises(TimeoutError):
                    self.lab.client.connect(family, family.server, 8080, timeout=0.2)
            self.assertEqual(tap.collect(lambda tcp: tcp.flags == packets.SYN), [])
        self.assertGreaterEqual(self.tpx.reasons()["rate_penalty"], before + 2)

    def test_automatic_leaves_virtual_devices_alone(self):
        self.tpx.write(dropping("auto"))
        report = self.tpx.load().stdout
        self.assertRegex(report, "no early drop by XDP on lan0: .*veth.*segmentation offload")
        self.assertEqual(self.place(), "none")
        self.assertIn("veth", self.early()["why"])
        self.assertRegex(self.tpx.command("status").stdout, r"early drop by XDP\n  lan0 +none +on a veth")
        self.flood()
        self.assertGreaterEqual(self.tpx.rules()["no"], 42, "tc drops all the same")

    def test_falls_down_the_ladder_with_a_message(self):
        """A bridge has no XDP of its own."""
        self.lab.gateway.ip("link add br0 type bridge", "link set br0 up")
        self.tpx.write(dropping("native", interfaces={"lan": ["lan0", "br0"], "wan": ["wan0"]}))
        self.assertRegex(self.tpx.load().stdout, "drops early on br0 by generic XDP: native XDP failed")
        self.assertEqual((self.place(), self.place("br0")), ("native", "generic"))
        self.tpx.reload()
        self.assertEqual((self.place(), self.place("br0")), ("native", "generic"))
        self.tpx.reload(dropping("generic", interfaces={"lan": ["lan0", "br0"], "wan": ["wan0"]}))
        self.assertEqual((self.place(), self.place("br0")), ("generic", "generic"))
        self.tpx.reload(dropping("native", interfaces={"lan": ["lan0", "br0"], "wan": ["wan0"]}))
        self.assertEqual((self.place(), self.place("br0")), ("native", "generic"))

    def test_a_port_of_a_bridge_is_left_to_tc(self):
        self.tpx.start(dropping("native"))
        self.assertEqual(self.place(), "native")
        self.lab.gateway.ip("link add br0 type bridge", "link set br0 up", "link set lan0 master br0")
        harness.wait_until(lambda: self.early()["xdp"] == "none", "it is detached")
        self.assertIn("port", self.early()["why"])
        self.assertEqual(self.place(), "none")
        self.lab.gateway.ip("link set lan0 nomaster")
        harness.wait_until(lambda: self.early()["xdp"] == "native", "it is attached again")
        self.assertEqual(self.place(), "native")

    def test_rules_that_need_a_mark_are_tcs(self):
        self.tpx.write(dropping("native", product.rule("drop", "marked", {**BOTH, "mark": 7})))
        self.tpx.load()
        self.assertEqual(self.place(), "none")
        self.assertIn('"marked" asks for a mark', self.early()["why"].replace("'", '"'))

    def test_reload_attaches_and_detaches_with_the_rules(self):
        self.tpx.start(product.config(xdp="native"))
        self.assertEqual(self.place(), "none")
        self.assertEqual(self.early()["why"], "no rule drops anything")
        self.assertRegex(self.tpx.reload(dropping("native")).stdout, "drops early on lan0 by native XDP")
        program = self.kernel()[1]
        self.tpx.reload(dropping("native", product.rule("drop", "other", {"dport": 1})))
        self.assertEqual(self.kernel(), ("native", program), "attached again")
        self.assertRegex(self.tpx.reload(product.config(xdp="native")).stdout,
                         "no early drop by XDP on lan0: no rule drops anything")
        self.assertEqual(self.place(), "none")
        self.tpx.reload(dropping("generic"))
        self.assertEqual(self.place(), "generic")
        self.tpx.reload(dropping("off"))
        self.assertEqual(self.place(), "none")
        self.assertEqual(self.early()["why"], "switched off by the configuration")

    def test_devices_that_come_later_are_followed(self):
        self.tpx.start(dropping("native", interfaces={"lan": ["lan*"], "wan": ["wan0"]}))
        other = self.lab.namespace("o")
        for _ in range(2):
            self.lab.link(other, "o0", self.lab.gateway, "lan9")
            harness.wait_until(lambda: "lan9" in [e["device"] for e in self.tpx.status()["early_drop"]],
                               "lan9 is followed")
            self.assertEqual(self.place("lan9"), "native")
            other.ip("link del o0")
            harness.wait_until(lambda: "lan9" not in [e["device"] for e in self.tpx.status()["early_drop"]],
                               "lan9 is forgotten")
        self.assertEqual([p.name for p in self.tpx.pins.glob("link_xdp_*")],
                         [f"link_xdp_{self.early()['ifindex']}"])

    def test_a_lan_device_that_becomes_wan_is_released(self):
        self.tpx.start(dropping("native"))
        self.assertEqual(self.place(), "native")
        self.tpx.reload(dropping("native", interfaces={"lan": ["wan0"], "wan": ["lan0"]}))
        self.assertEqual((self.kernel("lan0")[0], self.place("wan0")), ("none", "native"))

    def test_detach_leaves_nothing(self):
        before = state.of(self.lab.gateway)
        for mode in ("native", "generic"):
            with self.subTest(mode=mode):
                self.tpx.start(dropping(mode))
                self.tpx.crash()
                self.assertEqual(self.place(), mode, "the kernel's part outlives the process")
                self.assertEqual(self.syns_seen(), 0)
                ids = state.objects(self.tpx.pins)
                self.assertRegex(self.tpx.detach().stdout, "detached XDP from device lan0")
                self.assertEqual(state.difference(before, state.of(self.lab.gateway)), [])
                harness.wait_until(lambda: not state.alive(ids), "kernel objects go", 5)

    def test_upgrade_replaces_it_in_place(self):
        self.tpx.start(dropping("native"))
        old = self.kernel()
        self.tpx.command("upgrade")
        new = self.kernel()
        self.assertEqual(new[0], "native")
        self.assertNotEqual(new[1], old[1])
        self.assertEqual(self.place(), "native")
        self.assertEqual(self.syns_seen(), 0)

    @unittest.skipUnless(CLANG, "needs clang")
    def test_A7_a_foreign_xdp_program_is_left_alone(self):
        built = self.tpx.folder / "foreign_xdp.o"
        harness.run([CLANG, "-target", "bpf", "-O2", "-g", "-isystem", "/usr/include/x86_64-linux-gnu",
                     "-c", harness.HERE / "foreign_xdp.bpf.c", "-o", built])
        for how in ("xdpdrv", "xdpgeneric"):
            with self.subTest(how=how):
                self.lab.gateway.run("ip", "link", "set", "lan0", how, "obj", built, "sec", "xdp")
                theirs = self.kernel()
                for mode in ("native", "generic"):
                    self.tpx.write(dropping(mode))
                    report = self.tpx.load().stdout
                    self.assertRegex(report, "no early drop by XDP on lan0: somebody else's program .foreign. ")
                    self.assertEqual(self.kernel(), theirs)
                    self.assertEqual(self.early()["xdp"], "none")
                    self.flood()
                    self.assertGreaterEqual(self.tpx.rules()["no"], 42, "tc drops all the same")
                    self.tpx.detach()
                    self.assertEqual(self.kernel(), theirs)
                self.tpx.load()
                self.lab.gateway.run("ip", "link", "set", "lan0", how, "off")
                self.tpx.reload()
                self.assertEqual(self.place(), "generic")
                self.tpx.detach()


if __name__ == "__main__":
    harness.main()
