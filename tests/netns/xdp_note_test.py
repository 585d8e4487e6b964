# SPDX-License-Identifier: Apache-2.0
"""XDP's word: what it has found to be none of the proxy's tc passes without looking, and counts as if it had looked."""
import contextlib
import json
import os
import shutil
import socket
import time
import unittest

import harness
import product
from trace_test import Trace
from xdp_case import DROPPED, NOBODY, XdpCase, dropping

CLANG = shutil.which("clang")
MODES = ("native", "generic")
PORT = 5300
GRE = 47
COUNT = 40
AROUND = product.udp_rule("bypass", "around", {"dport": PORT})
SPECIAL = {harness.V4: "224.0.0.251", harness.V6: "ff02::fb"}


class Notes(XdpCase):
    def judged(self):
        """Of each reason and rule: packets, bytes, and how many of the packets XDP has judged."""
        counters = self.tpx.json("counters")
        return {kind: {entry["name"]: (entry["packets"], entry["bytes"], entry["by_xdp"]) for entry in counters[kind]}
                for kind in ("reasons", "rules")}

    def during(self, action):
        """What was counted while `action` ran: as `judged`, reasons and rules alike, where anything was."""
        before = self.judged()
        action()
        after = self.judged()
        return {name: tuple(a - b for a, b in zip(after[kind][name], before[kind][name]))
                for kind in after for name in after[kind] if after[kind][name] != before[kind][name]}

    def by_xdp(self):
        return sum(entry[2] for entry in self.judged()["reasons"].values())

    @contextlib.contextmanager
    def ends(self, family, at=None, kind=socket.SOCK_DGRAM, proto=0):
        """A client's socket, and one that hears it: a server's, unless the namespace is another."""
        with self.lab.client.socket(family.af, kind, proto) as client, \
             (at or self.lab.server).socket(family.af, kind, proto) as server:
            if kind == socket.SOCK_DGRAM:
                if family is harness.V6:
                    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                server.bind(("", PORT))
            server.settimeout(5)
            yield client, server

    def send(self, ends, address, port=PORT, count=COUNT):
        """One after the other, each seen to arrive."""
        sender, receiver = ends
        for n in range(count):
            sender.sendto(b"%04d" % n, (address, port))
            self.assertTrue(receiver.recv(100).endswith(b"%04d" % n))

    def sent(self, ends, family, verdict="direct", rule="around"):
        """What was counted; explain has to say of a new flow what became of this one."""
        counted = self.during(lambda: self.send(ends, family.server))
        self.assert_explained(verdict, (family.client, 50000), (family.server, PORT), "udp", rule)
        return counted

    def each_mode(self, *rules, modes=MODES, **more):
        """The product in each mode, both families in each: (mode, family, the subtest to be in)."""
        for mode in modes:
            self.tpx.start(dropping(mode, *(rules or (NOBODY, AROUND)), **more))
            self.tells = mode == "native" or (mode == "generic" and self.sees_link_header())
            for family in harness.FAMILIES:
                yield mode, family, self.subTest(xdp=mode, family=family.name)
            self.assertEqual(self.tpx.stop(), 0)
            self.tpx.detach()

    def sees_link_header(self):
        """Where generic XDP has a packet copied, the copy has lost its link header's length (seen on Linux 6.18): tc
        finds the network header in its place, and no metadata."""
        with self.lab.client.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            alone = 0
            while alone != 1:
                alone, size, _ = self.during(lambda: sock.sendto(b"x", (harness.V4.lan, PORT)))["own_address"]
        return size == 14 + 20 + 8 + 1

    def assert_told(self, entry, count, least=COUNT * 3 // 4):
        """So many packets, at least so many of them by XDP's word if there is any: the first of a second is tc's."""
        self.assertEqual(entry[0], count)
        self.assertGreaterEqual(entry[2], least if self.tells else 0)
        self.assertLessEqual(entry[2], count if self.tells else 0)

    def assert_not_told(self, entry, count):
        self.assertEqual(entry[::2], (count, 0))

    def test_datagrams_of_a_flow_that_goes_around(self):
        """The same counts and bytes with XDP as without. The first datagram of each second is tc's to write down."""
        seen = {}
        for mode, family, subtest in self.each_mode(modes=(*MODES, "off")):
            with subtest, self.ends(family) as ends:
                counted = self.sent(ends, family)
                self.assert_told(counted["direct"], COUNT - 1)
                self.assertEqual(counted["around"][0], 1)
                told = any("of these judged by XDP" in line for line in self.tpx.command("counters").stdout.splitlines())
                self.assertEqual(told, self.tells)
                seen[mode, family] = [counted[name][:2] for name in ("direct", "rule_bypass", "around")]
        for family in harness.FAMILIES:
            self.assertEqual(seen["native", family], seen["off", family])

    def test_a_flow_that_goes_around_lives_as_long_as_it_goes_on(self):
        short = {"udp_one_way": "2s", "udp_answered": "2s", "udp_stream": "2s"}
        for mode in MODES:
            with self.subTest(xdp=mode), contextlib.ExitStack() as stack:
                self.tpx.start(dropping(mode, NOBODY, AROUND, proxy=short))
                flows = [(family, stack.enter_context(self.ends(family))) for family in harness.FAMILIES]
                for family, ends in flows:
                    self.send(ends, family.server, count=1)
                self.tpx.reload(dropping(mode, product.udp_rule("drop", "no"), proxy=short))
                before, end = self.by_xdp(), time.monotonic() + 5
                while time.monotonic() < end:
                    for family, ends in flows:
                        self.send(ends, family.server, count=1)
                    time.sleep(0.02)
                self.assertGreater(self.by_xdp() - before, 100 if mode == "native" else -1)
                for family, _ in flows:  # a new one would be
                    self.assert_explained("drop", (family.client, 50000), (family.server, PORT), "udp", "no")
                self.assertEqual(self.tpx.stop(), 0)
                self.tpx.detach()

    def test_the_gateways_own_addresses_and_special_ones(self):
        for _, family, subtest in self.each_mode():
            with subtest, self.ends(family, at=self.lab.gateway) as ends:
                counted = self.during(lambda: self.send(ends, family.lan))
                self.assertEqual(counted["own_address"][2] >= COUNT, self.tells, counted)
                for reason, address in (("own_address", family.lan), ("special_address", SPECIAL[family])):
                    self.assert_reason(reason, (family.client, 50000), (address, PORT), "udp")
                if family is harness.V6:
                    ends[0].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, self.index_at_client())
                counted = self.during(lambda: [ends[0].sendto(b"x", (SPECIAL[family], PORT)) for _ in range(COUNT)])
                self.assertEqual(counted["special_address"][2] >= COUNT, self.tells, counted)

    def index_at_client(self):
        return json.loads(self.lab.client.run("ip", "-j", "link", "show", "c0").stdout)[0]["ifindex"]

    def test_other_protocols_by_their_rule_or_by_none(self):
        refuses = product.rule("drop", "none", {"proto": 132})
        around = product.rule("bypass", "gre", {"proto": GRE})
        for rules, reason in (((refuses, around), "rule_bypass"), ((NOBODY,), "other_protocol")):
            for _, family, subtest in self.each_mode(*rules, modes=(*MODES, "off")):
                with subtest, self.ends(family, kind=socket.SOCK_RAW, proto=GRE) as ends:
                    counted = self.during(lambda: self.send(ends, family.server, 0))
                    self.assertGreaterEqual(counted[reason][0], COUNT)
                    self.assertEqual(counted[reason][2] >= COUNT, self.tells, counted)
                    if self.is_asked_now():
                        answer = self.tpx.json("explain", GRE, family.client, family.server)
                        self.assertEqual(answer["reason"]["name"], reason)
                    if reason == "rule_bypass":
                        self.assertEqual(counted["gre"][::2], (COUNT, COUNT if self.tells else 0))

    def test_what_the_proxy_has_goes_its_way(self):
        for _, family, subtest in self.each_mode(NOBODY, product.udp_rule()):
            with subtest, self.ends(family) as ends:
                self.assert_proxied(family)
                counted = self.sent(ends, family, "proxy", "udp")
                self.assertGreaterEqual(counted["established"][0], COUNT - 1)
                self.assertEqual((counted["established"][2], counted["rule_proxy"][2]), (0, 0))

    def test_what_the_fib_forwards_goes_its_way(self):
        fib = product.udp_rule("bypass", "around", {"dport": PORT}, forward="fib")
        for _, family, subtest in self.each_mode(NOBODY, fib, modes=("native",)):
            with subtest, self.ends(family) as ends:
                self.assert_not_told(self.sent(ends, family)["forwarded"], COUNT - 1)

    def test_a_trace_sees_each_packet(self):
        for _, family, subtest in self.each_mode():
            with subtest, self.ends(family) as ends:
                trace = Trace(self.tpx, "udp", "any", product.end(family.server, PORT), "--reason", "direct", "--json")
                self.addCleanup(trace.close)
                self.assert_not_told(self.sent(ends, family)["direct"], COUNT - 1)
                self.assertEqual({json.loads(line)["hook"] for line in trace.read(COUNT - 1)}, {"tc"})
                trace.end()
                self.assert_told(self.sent(ends, family)["direct"], COUNT)

    def test_an_upgrade_makes_them_understand_each_other_again(self):
        for _, family, subtest in self.each_mode():
            with subtest, self.ends(family) as ends:
                self.send(ends, family.server)
                self.tpx.command("upgrade")
                self.assert_told(self.sent(ends, family)["direct"], COUNT)

    def compiled(self, source, *defines):
        built = self.tpx.folder / f"{source}.o"
        harness.run([CLANG, "-O2", "-g", "-target", "bpf", "-mcpu=v3", *(f"-D{define}" for define in defines),
                     f"-I{harness.REPO}/bpf", f"-I{harness.REPO}/maps", f"-I/usr/include/{os.uname().machine}-linux-gnu",
                     "-c", harness.HERE / f"{source}.bpf.c", "-o", built])
        return built

    @unittest.skipUnless(CLANG, "needs clang")
    def test_what_was_rewritten_in_between_is_judged_as_it_is(self):
        """A note is about the flow that XDP has seen."""
        self.lab.gateway.run("tc", "qdisc", "add", "dev", "lan0", "clsact")
        built = self.compiled("rewriting_tc", f"FROM={PORT}", f"TO={DROPPED}")
        for _, family, subtest in self.each_mode(modes=("native",), steering={"attach": "clsact"}):
            with subtest, self.ends(family) as ends:
                self.assert_told(self.sent(ends, family)["direct"], COUNT - 1)
                self.lab.gateway.run("tc", "filter", "add", "dev", "lan0", "ingress", "pref", 1, "bpf",
                                     "direct-action", "obj", built, "sec", "tc")
                counted = self.during(lambda: [ends[0].sendto(b"x", (family.server, PORT)) for _ in range(COUNT)])
                self.lab.gateway.run("tc", "filter", "del", "dev", "lan0", "ingress", "pref", 1, "handle", 1,
                                     "bpf")
                self.assertEqual(counted["no"][::2], (COUNT, 0), counted)
                self.assertNotIn("direct", counted)
                self.assert_explained("drop", (family.client, 50000), (family.server, DROPPED), "udp", "no")

    def key(self):
        """Of the programs that are loaded."""
        pin = self.tpx.pins / "tpx_lan"
        program = json.loads(harness.run(["bpftool", "-j", "prog", "show", "pinned", pin]).stdout)
        for number in program["map_ids"]:
            dump = json.loads(harness.run(["bpftool", "-j", "map", "dump", "id", number]).stdout)
            for entry in dump if isinstance(dump, list) else []:
                for constant in entry.get("formatted", {}).get("value", {}).get(".rodata", []):
                    if "tpx_note_key" in constant:
                        return constant["tpx_note_key"]
        self.fail("the programs have no key")

    @unittest.skipUnless(CLANG and shutil.which("bpftool"), "needs clang and bpftool")
    def test_A7_a_forged_note_is_not_believed(self):
        """With the right key it is, so that the other ones are seen to differ in nothing else."""
        self.asks_explain = False  # it has no XDP in front of it
        for how in ("xdpdrv", "xdpgeneric"):
            self.tpx.start(dropping("off", product.udp_rule()))
            self.assertNotEqual(self.key(), 0)
            for key in (0, self.key() ^ 1, self.key()):
                built = self.compiled("noting_xdp", f"KEY={key}ULL")
                self.lab.gateway.run("ip", "link", "set", "dev", "lan0", how, "obj", built, "sec", "xdp")
                for family in harness.FAMILIES:
                    with self.subTest(how=how, key=key, family=family.name):
                        before = self.by_xdp()
                        if key == self.key():
                            self.assert_direct(family)
                            self.assertGreater(self.by_xdp(), before)
                        else:
                            self.assert_proxied(family)
                            self.assertEqual(self.by_xdp(), before)
                self.lab.gateway.run("ip", "link", "set", "dev", "lan0", how, "off")
            self.tpx.stop()
            self.tpx.detach()


if __name__ == "__main__":
    harness.main()
