# SPDX-License-Identifier: Apache-2.0
"""E17: a source that begins flows too fast is held back by the rule's limit, the others are not."""
import json
import random
import socket
import struct
import threading
import time

import harness
import product
import udp_case
import udp_lab

BURST = 200
MAX_SOURCES = 65536
FLOODER = {harness.V4: "192.0.2.9", harness.V6: "2001:db8:1:9::2"}
NOWHERE = "2001:db8:dead::1"


class Flood:
    """SYNs from a source, each from another port, straight to the device."""

    def __init__(self, lab):
        self.sock = lab.client.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self.sock.bind(("c0", 0))
        with lab.gateway.entered():
            there = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            there.bind(("lan0", 0))
            self.hardware = there.getsockname()[4] + self.sock.getsockname()[4]
            there.close()
        self.sent = 0

    def close(self):
        self.sock.close()

    def syn(self, family, source, target, sport, dport):
        src, dst = socket.inet_pton(family.af, source), socket.inet_pton(family.af, target)
        tcp = struct.pack("!HHIIBBHHH", sport, dport, random.getrandbits(32), 0, 5 << 4, 2, 65535, 0, 0)
        pseudo = src + dst + struct.pack("!HH", 6, len(tcp))
        tcp = tcp[:16] + struct.pack("!H", checksum(pseudo + tcp)) + tcp[18:]
        if family is harness.V4:
            ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0, 64, 6, 0) + src + dst
            return b"\x08\x00" + ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:] + tcp
        return b"\x86\xdd" + struct.pack("!IHBB", 6 << 28, len(tcp), 6, 64) + src + dst + tcp

    def send(self, *what):
        self.sock.send(self.hardware + self.syn(*what))
        self.sent += 1


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


class RateLimit(udp_lab.Case):
    def setUp(self):
        super().setUp()
        self.lab.serve()

    def flood(self):
        flood = Flood(self.lab)
        self.addCleanup(flood.close)
        return flood

    def sources(self):
        path = next(self.tpx.pins.rglob("tpx_sources"))
        shape = json.loads(harness.run(["bpftool", "-j", "map", "show", "pinned", path]).stdout)
        self.assertEqual(shape["max_entries"], MAX_SOURCES)
        dump = harness.run(["bpftool", "-j", "map", "dump", "pinned", path], timeout=300).stdout
        return len(json.loads(dump)) if dump.strip() else 0

    def check_flood(self, family):
        """One source floods, another client calls a hundred times meanwhile."""
        if family is harness.V6:
            self.lab.address(self.lab.gateway, "lan0", family, "2001:db8:1:9::1")
        # deprecated, so that the caller keeps to its own
        self.lab.client.ip(f"addr add {FLOODER[family]}/{family.bits} dev c0 preferred_lft 0")
        flood, stop = self.flood(), threading.Event()
        before, began = self.tpx.reasons(), time.monotonic()

        def attack():
            sport = 1024
            while not stop.is_set() or flood.sent < 5 * BURST:
                flood.send(family, FLOODER[family], family.server, sport, 8080)
                sport = sport + 1 if sport < 65535 else 1024
        attacker = threading.Thread(target=attack)
        attacker.start()
        try:
            caller = self.lab.peer(self.lab.client, "burst", family.server, 8080, "--count", BURST // 2)
            self.assertEqual(caller.read(120), {"failures": {}})
        finally:
            stop.set()
            attacker.join()
        seconds = time.monotonic() - began
        limited = self.tpx.reasons()["rate_limited"] - before["rate_limited"]
        self.assertGreaterEqual(flood.sent - limited, BURST, "all of the burst passes")
        repeated = self.tpx.reasons()["established"] - before["established"]
        self.assertLessEqual(flood.sent - limited, BURST + seconds + 1 + repeated)
        self.assertGreater(limited, 0)
        self.assert_proxied(family)

    def test_E17_a_syn_flood_of_one_source_does_not_reach_the_others(self):
        self.tpx.start(product.config([product.rule(limit={"rate": 1, "burst": BURST})]))
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                self.check_flood(family)
        self.assertEqual(self.sources(), 4)

    def test_E17_penalty(self):
        """Connections go on, new ones are refused until it ends."""
        self.tpx.start(product.config([product.rule(limit={"rate": 1, "burst": 3, "penalty": "3s"})]))
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                began = time.monotonic()
                holder = self.lab.peer(self.lab.client, "hold", family.server, 8080, "--count", 6, "--timeout", 0.3)
                opened = holder.read(60)
                self.assertGreaterEqual(opened["sources"].get(family.wan, 0), 3)
                self.assertGreater(opened["failures"].get("timeout", 0), 0)
                self.assertEqual(holder.ask("check"), {"ok": opened["sources"][family.wan]})
                self.assertGreater(self.tpx.reasons()["rate_penalty"], 0)
                harness.wait_until(lambda f=family: self.connects(f), "the penalty ends", 30)
                self.assertGreater(time.monotonic() - began, 3)
                self.assertEqual(holder.ask("check"), {"ok": opened["sources"][family.wan]})

    def connects(self, family):
        """Explain is not asked: it judges a flow by itself, without what its source began before."""
        try:
            return self.lab.who(family, timeout=0.3, asks=False)[0] == family.wan
        except TimeoutError:
            return False

    def test_E17_udp_sessions(self):
        """A source has as many sessions as the limit lets it begin; those that it has go on."""
        self.serve_udp(udp_case.PORT)
        self.start_udp(product.udp_rule(limit={"rate": 1, "burst": 10}))
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                sessions = self.total("udp_sessions")
                began = time.monotonic()
                known = self.socket(family)
                self.assertEqual(self.who(known, family)[0], family.wan)
                for _ in range(100):
                    self.socket(family).sendto(b"W", (family.server, udp_case.PORT))
                self.assertEqual(self.who(known, family)[0], family.wan)
                begun = self.total("udp_sessions") - sessions
                self.assertGreaterEqual(begun, 10)
                self.assertLessEqual(begun, 11 + (time.monotonic() - began))
        self.assertGreater(self.tpx.reasons()["rate_limited"], 0)

    def test_E17_forged_sources_take_bounded_memory(self):
        """More sources than there is room for: the map is full, others connect all the same."""
        self.tpx.start(product.config([
            product.rule("bypass", "nowhere", {"dst": NOWHERE}, limit={"rate": 1}),
            product.rule(limit={"rate": 100, "penalty": "10s"})]))
        self.lab.gateway.ip(f"route add blackhole {NOWHERE}")
        flood = self.flood()
        count = harness.scaled(MAX_SOURCES * 5 // 4)
        for number in range(count):
            source = f"2001:db8:{0x100 + (number >> 16):x}:{number & 0xffff:x}::1"
            flood.send(harness.V6, source, NOWHERE, 1024, 9)
        sources = self.sources()
        self.assertLessEqual(sources, MAX_SOURCES)
        self.assertGreater(sources, min(count, MAX_SOURCES) // 2)
        for family in harness.FAMILIES:
            self.assert_proxied(family)


if __name__ == "__main__":
    harness.main()
