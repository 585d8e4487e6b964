# SPDX-License-Identifier: Apache-2.0
"""explain says what becomes of a flow: the same as what becomes of its first packet, and nothing changes by asking."""
import itertools
import json
import os
import pathlib
import socket
import struct

import harness
import packets
import product
import schema
from product import end

# Nobody has these, so nobody answers what is sent to them and no answer is counted.
STRANGER = {"v4": "192.0.2.200", "v6": "2001:db8:1::200"}
SERVER = {"v4": "203.0.113.5", "v6": "2001:db8:5::5"}
PROTOCOLS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP, "icmp": socket.IPPROTO_ICMP}
# Neighbour discovery and the like is counted here at any time.
NOISE = {"not_ip", "own_address", "special_address"}
BOTH = {"proto": ["tcp", "udp"]}
ALIVE = {1001: "rule_bypass", 1002: "rule_proxy", 1003: "rule_proxy", 1004: "rule_proxy", 1005: "rule_drop",
         1006: "rule_reject", 1007: "rule_proxy", 1008: "rule_bypass"}
DEAD = {**ALIVE, 1002: "down_open", 1003: "down_closed", 1004: "down_reset", 1007: "down_closed"}
VERDICTS = {"rule_bypass": "direct", "rule_drop": "drop", "rule_reject": "reject", "down_open": "direct",
            "down_closed": "drop", "down_reset": "reject"}


def rules():
    def one(action, port, **more):
        return product.rule(action, f"r{port}", {**BOTH, "dport": port}, **more)
    return [one("bypass", 1001), one("proxy", 1002, on_proxy_down="open"),
            one("proxy", 1003, on_proxy_down="closed", source="preserve"), one("proxy", 1004, on_proxy_down="reset"),
            one("drop", 1005), one("reject", 1006), one({"redirect": "203.0.113.9:99"}, 1007, on_proxy_down="closed")]


def frame(proto, src, dst, sport, dport, to):
    """The first packet of a flow, as explain imagines it."""
    v6 = ":" in dst
    source, target = (socket.inet_pton(socket.AF_INET6 if v6 else socket.AF_INET, a) for a in (src, dst))
    number = socket.IPPROTO_ICMPV6 if v6 and proto == "icmp" else PROTOCOLS.get(proto) or int(proto)
    if proto == "tcp":
        body, at = struct.pack("!HHIIHHHH", sport, dport, 1, 0, 5 << 12 | packets.SYN, 64000, 0, 0), 16
    elif proto == "udp":
        body, at = struct.pack("!HHHH", sport, dport, 8, 0), 6
    elif proto == "icmp":
        body, at = struct.pack("!BBHHH", 128 if v6 else 8, 0, 0, 1, 1), 2
    else:
        body, at = bytes(8), 0
    pseudo = b"" if number == socket.IPPROTO_ICMP else source + target + struct.pack("!HH", len(body), number)
    body = body[:at] + struct.pack("!H", packets.checksum(pseudo + body)) + body[at + 2:]
    if v6:
        header = struct.pack("!IHBB", 6 << 28, len(body), number, 64) + source + target
    else:
        header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0x4000, 64, number, 0) + source + target
        header = header[:10] + struct.pack("!H", packets.checksum(header)) + header[12:]
    return to + b"\2\0\0\0\0\1" + (b"\x86\xdd" if v6 else b"\x08\0") + header + body


class Explain(product.TestCase):
    def setUp(self):
        super().setUp()
        self._ports = itertools.count(20000)
        self.open_wire()
        self.published = json.loads((harness.REPO / "docs/schema/explain.schema.json").read_text())

    def explain(self, *args):
        answer = self.tpx.json("explain", *args)
        self.assertEqual(schema.errors_of(answer, self.published), [])
        return answer

    def counted(self):
        counters = self.tpx.json("counters")
        found = {("reason", r["name"]): r["packets"] for r in counters["reasons"] if r["hook"] == "tc"}
        found.update({("rule", r["name"]): r["packets"] for r in counters["rules"]})
        return found

    def send(self, proto, src, dst, sport, dport, copies):
        """What was counted for so many real packets: the reason, and the rule or None."""
        before = self.counted()
        for _ in range(copies):
            self.wire.send(frame(proto, src, dst, sport, dport, self.gateway_mac))

        def grown():
            after = self.counted()
            found = {key: after[key] - before[key] for key in after if after[key] != before[key]}
            return {key: n for key, n in found.items() if key[1] not in NOISE or n >= copies}
        found = harness.wait_until(grown, f"{proto} from {src} to {dst} is counted")
        if copies == 1:  # noise may be counted, but is not what was sent
            found = {key: n for key, n in found.items() if key[1] not in NOISE} or found
        reasons = [name for kind, name in found if kind == "reason"]
        hit = [name for kind, name in found if kind == "rule"]
        self.assertEqual((len(reasons), len(hit) <= 1), (1, True), found)
        return reasons[0], hit[0] if hit else None

    def compare(self, reason, proto, src, dst, dport=0):
        """Asks and sends; both must come to `reason`, and to the same rule."""
        has_ports = proto in ("tcp", "udp")
        sport = next(self._ports) if has_ports else 0
        ends = (end(src, sport), end(dst, dport)) if has_ports else (src, dst)
        with self.subTest(proto=proto, src=ends[0], dst=ends[1], reason=reason):
            answer = self.explain(proto, *ends)
            said = answer["reason"]["name"], answer["rule"] and answer["rule"]["name"]
            self.assertEqual(said, self.send(proto, src, dst, sport, dport, 8 if reason in NOISE else 1))
            self.assertEqual(said[0], reason)
            self.assertEqual((answer["flow"]["src"], answer["flow"]["dst"]), ends)
            return answer

    def compare_rules(self, expected):
        for family in harness.FAMILIES:
            for proto in ("tcp", "udp"):
                for port, reason in expected.items():
                    answer = self.compare(reason, proto, STRANGER[family.name], SERVER[family.name], port)
                    verdict = VERDICTS.get(reason) or ("redirect" if port == 1007 else "proxy")
                    self.assertEqual(answer["verdict"], verdict)
                    self.assertEqual(answer["steered"] is not None, reason == "rule_proxy")
                    self.assertEqual(answer["rule"]["name"], f"r{port}" if port != 1008 else "default")

    def test_I10_says_what_becomes_of_real_packets(self):
        self.tpx.start(product.config(rules()))
        self.compare_rules(ALIVE)
        self.tpx.crash()
        self.compare_rules(DEAD)

    def test_I10_what_is_decided_before_the_rules(self):
        self.tpx.write(product.config([product.rule("drop", "all", {"proto": ["tcp", "udp", "icmp"]})]))
        self.tpx.load()
        for family, special, martian in ((harness.V4, "169.254.169.254", "127.0.0.1"),
                                         (harness.V6, "fe80::99", "ff02::5")):
            client, server = STRANGER[family.name], SERVER[family.name]
            for proto in ("tcp", "udp", "icmp"):
                self.compare("own_address", proto, client, family.lan, 80)
                self.compare("own_address", proto, client, family.wan, 80)
                self.compare("special_address", proto, client, special, 80)
                self.compare("rule_drop", proto, client, server, 80)
            for proto in ("tcp", "udp"):
                self.compare("martian", proto, martian, server, 80)
                self.compare("martian", proto, family.lan, server, 80)
                self.compare("martian", proto, server, server, 80)
        answer = self.explain("tcp", "192.0.2.2:1", "203.0.113.5:80", "--mark", "0x40000001")
        self.assertEqual((answer["reason"]["name"], answer["rule"]), ("own_mark", None))
        self.assertEqual(answer["flow"]["mark"], 0x40000001)
        answer = self.explain("tcp", "192.0.2.2:1", "203.0.113.5:80", "--mark", "1")
        self.assertEqual(answer["reason"]["name"], "rule_drop")

    def test_notes_of_a_limit_and_of_the_proxys_own_port(self):
        self.tpx.start(product.config([product.rule(limit={"rate": 7})]))
        port = next(int(line.split()[3].rsplit(":", 1)[1]) for line in
                    self.lab.gateway.run("ss", "-Hltnp").stdout.splitlines() if "tpx-bpf" in line)
        for family in harness.FAMILIES:
            for address, dport, words in ((family.server, 80, "takes 7 new flows a second"),
                                          (family.lan, port, "lk_listener_dialled")):
                notes = self.explain("tcp", end(family.client, 40_000), end(address, dport))["notes"]
                self.assertEqual([words in note for note in notes], [False, True], notes)
            self.assertEqual(len(self.explain("tcp", end(family.client, 40_000), end(family.lan, port ^ 1))["notes"]), 1)

    def test_I10_other_protocols(self):
        self.tpx.start(product.config())
        for family in harness.FAMILIES:
            self.compare("other_protocol", "icmp", STRANGER[family.name], SERVER[family.name])
        self.tpx.reload(product.config([product.rule("reject", "echo", {"proto": "icmp"})]))
        for family in harness.FAMILIES:
            answer = self.compare("rule_reject", "icmp", STRANGER[family.name], SERVER[family.name])
            self.assertIn("ICMP", answer["outcome"])
            self.compare("martian", "icmp", family.lan, SERVER[family.name])
        self.tpx.reload(product.config([product.rule("drop", "sctp", {"proto": 132})]))
        for family in harness.FAMILIES:
            answer = self.compare("rule_drop", "132", STRANGER[family.name], SERVER[family.name])
            self.assertEqual(answer["flow"]["proto"], "protocol-132")
            self.compare("rule_bypass", "47", STRANGER[family.name], SERVER[family.name])

    def test_I10_marks_are_those_that_are_loaded(self):
        self.tpx.write(product.config(rules(), steering={"mark_mask": 0x300, "steer_mark": 0x100, "own_mark": 0x200}))
        self.tpx.load()
        for mark, reason in ((0x40000000, "down_open"), (0x200, "own_mark")):
            answer = self.explain("tcp", "192.0.2.2:1", "203.0.113.5:1002", "--mark", mark)
            self.assertEqual(answer["reason"]["name"], reason)

    def state_of_the_kernel(self):
        counters = self.tpx.json("counters")
        flows = {}
        for name in ("tpx_flows", "tpx_frags", "tpx_handoff", "tpx_refusals", "tpx_tables"):
            flows[name] = harness.run(["bpftool", "-j", "map", "dump", "pinned", self.tpx.pins / name]).stdout
        control = harness.run(["bpftool", "-j", "map", "dump", "pinned", self.tpx.pins / "tpx_control"]).stdout
        flows["tpx_control"] = json.loads(control)[0]["formatted"]["value"]
        flows["tpx_control"].pop("watchers_s")  # the proxy looks each second
        return ({r["name"]: r["packets"] for r in counters["reasons"] if r["name"] not in NOISE}, counters["rules"],
                counters["totals"]["sessions_total"], sorted(os.listdir(self.tpx.pins)), flows)

    def test_I10_asking_changes_nothing(self):
        self.tpx.start(product.config(rules()))
        client, server = self.pair(harness.V4, 1003)  # a flow that exists, with sockets
        names = end(*client.getsockname()), end(*client.getpeername())
        before, own = self.state_of_the_kernel(), set(pathlib.Path("/sys/fs/bpf").iterdir())
        for proto, port in itertools.product(("tcp", "udp"), ALIVE):
            for family in harness.FAMILIES:
                self.explain(proto, end(STRANGER[family.name], 5), end(SERVER[family.name], port))
                self.explain(proto, end(STRANGER[family.name], 5), end(SERVER[family.name], port), "--policy",
                             self.tpx.config)
        for _ in range(3):
            self.assertEqual(self.explain("tcp", *names)["reason"]["name"], "rule_proxy")
        self.assertEqual(self.state_of_the_kernel(), before)
        self.assertLessEqual({p for p in pathlib.Path("/sys/fs/bpf").iterdir() if self.tpx.name in p.name}, own)
        client.sendall(b"still there")
        self.assertEqual(product.receive(server, 11), b"still there")

    def test_I10_a_candidate_is_judged_as_a_reload_would_publish_it(self):
        networks = "".join(f"2001:db8:{i // 65536 + 0x100:x}:{i % 65536:x}::/64\n" for i in range(0, 90000, 3))
        (self.tpx.folder / "many.txt").write_text(networks)
        candidate = self.tpx.folder / "candidate.yaml"
        candidate.write_text(json.dumps(product.config(
            [product.rule("reject", "many", {**BOTH, "dst": "many"}),
             product.rule("drop", "r1002", {**BOTH, "dport": 1002})], sets={"many": {"file": "many.txt"}})))
        self.tpx.start(product.config(rules()))
        flows = [(f, proto, port) for f in harness.FAMILIES for proto in ("tcp", "udp") for port in (1002, 1003)]

        def ask(*more):
            return [self.explain(proto, end(STRANGER[f.name], 7), end(SERVER[f.name], port), *more)
                    for f, proto, port in flows]
        live, said = ask(), ask("--config", candidate)
        self.assertEqual([a["reason"]["name"] for a in said], ["rule_drop", "rule_bypass"] * 4)
        self.assertEqual({a["policy"]["candidate"] for a in said}, {str(candidate)})
        self.assertEqual([a["reason"]["name"] for a in live], ["rule_proxy"] * 8)
        among = [self.explain("tcp", "[2001:db8:1::2]:7", f"[2001:db8:100:{i:x}::1]:80", "--config", candidate)
                 for i in (3, 4)]
        self.assertEqual([a["rule"]["name"] for a in among], ["many", "default"])
        self.command_reloads(candidate)
        for (family, proto, port), answer in zip(flows, said):
            self.compare(answer["reason"]["name"], proto, STRANGER[family.name], SERVER[family.name], port)

    def command_reloads(self, file):
        self.tpx.command("reload", "--config", file)

    def test_I10_a_candidate_needs_nothing_loaded(self):
        self.tpx.write(product.config(rules()))
        pins = self.tpx.pins
        answer = self.explain("tcp", "192.0.2.2:1", "203.0.113.5:1003", "--config", self.tpx.config)
        self.assertEqual((answer["reason"]["name"], answer["flow"]["device"]), ("down_closed", "lan0"))
        self.assertTrue(any("nothing is loaded" in note for note in answer["notes"]), answer["notes"])
        answer = self.explain("tcp", "192.0.2.2:1", "192.0.2.1:1003", "--config", self.tpx.config)
        self.assertEqual(answer["reason"]["name"], "own_address")
        self.assertFalse(pins.exists())
        self.assertFalse(pathlib.Path("/run", self.tpx.name).exists())
        done = self.tpx.command("explain", "tcp", "192.0.2.2:1", "203.0.113.5:1003", check=False)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn("nothing is loaded", done.stderr)

    def test_text(self):
        self.tpx.write(json.dumps(product.config(rules()), indent=1))
        self.tpx.start()
        text = self.tpx.command("explain", "udp", "[2001:db8:1::2]:5", "[2001:db8:5::5]:1007").stdout
        self.assertRegex(text, r"(?m)^verdict  redirect: steered to worker [01], which connects to 203\.0\.113\.9:99$")
        line = next(n for n, words in enumerate(self.tpx.config.read_text().splitlines(), 1) if '"r1007"' in words)
        found = int(text.split("(line ")[1].split()[0])
        self.assertLessEqual(abs(found - line), 1, text)
        self.assertIn("reason   rule_proxy: ", text)
        self.assertIn("comes in by lan0\n         2001:db8:5::5 is no special address\n", text)
        self.assertIn("(2 of 2 alive)", text)
        self.assertIn("note     a new flow is judged; flows and sockets that exist keep their verdict", text)

    def test_device(self):
        self.tpx.load()
        self.assertEqual(len(self.explain("tcp", "192.0.2.2", "203.0.113.5:80", "--in", "lan0")["notes"]), 1)
        answer = self.explain("tcp", "192.0.2.2", "203.0.113.5:80", "--in", "wan0")
        self.assertTrue(any("wan0 is no LAN device" in note for note in answer["notes"]), answer["notes"])
        done = self.tpx.command("explain", "tcp", "192.0.2.2", "203.0.113.5:80", "--in", "nope", check=False)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn("'nope'", done.stderr)

    def test_I10_rules_on_interfaces_follow_the_device_that_is_named(self):
        self.lab.link(self.lab.client, "c1", self.lab.gateway, "lan1")
        content = product.config([product.rule("drop", "second", {**BOTH, "interface": "lan1"}),
                                  product.rule("reject", "others", {**BOTH, "interface": {"not": "lan0"}}),
                                  product.rule("proxy", "first", {**BOTH, "interface": "lan0"})],
                                 interfaces={"lan": ["lan*"], "wan": ["wan0"]})
        self.tpx.start(content)
        for candidate in ((), ("--config", self.tpx.config)):
            for proto in ("tcp", "udp"):
                for device, rule in (("lan0", "first"), ("lan1", "second"), ("wan0", "others")):
                    answer = self.explain(proto, "192.0.2.200:5", "203.0.113.5:80", "--in", device, *candidate)
                    self.assertEqual((answer["rule"]["name"], answer["flow"]["device"]), (rule, device))
        for family in harness.FAMILIES:  # and the wire agrees
            self.compare("rule_proxy", "tcp", STRANGER[family.name], SERVER[family.name], 80)

    def test_wrong_usage_says_what_was_expected(self):
        for args, words in (
                (("sctp", "192.0.2.2:1", "203.0.113.5:2"), "expected tcp, udp, icmp or a number"),
                (("tcp", "192.0.2.2:1", "203.0.113.5"), "expected 203.0.113.5:443"),
                (("tcp", "[2001:db8::1]:1", "2001:db8::2"), "expected [2001:db8::2]:443"),
                (("tcp", "192.0.2.2:1", "203.0.113:5"), "expected 192.0.2.2:40000"),
                (("tcp", "example.org:1", "203.0.113.5:5"), "expected 192.0.2.2:40000"),
                (("tcp", "[192.0.2.2]:1", "203.0.113.5:5"), "expected 192.0.2.2:40000"),
                (("tcp", "[2001:db8::1", "[2001:db8::2]:5"), "[2001:db8::2]:40000"),
                (("tcp", "[2001:db8::1]1", "[2001:db8::2]:5"), "expected [2001:db8::1]:443"),
                (("udp", "192.0.2.2:0", "203.0.113.5:5"), "expected a number from 1 to 65535"),
                (("udp", "192.0.2.2:1", "203.0.113.5:65536"), "expected a number from 1 to 65535"),
                (("udp", "192.0.2.2:1", "203.0.113.5:"), "expected a number from 1 to 65535"),
                (("udp", "192.0.2.2:1", "[2001:db8::1]:5"), "expected two IPv4 or two IPv6 addresses"),
                (("icmp", "192.0.2.2:1", "203.0.113.5"), "icmp has no ports"),
                (("47", "192.0.2.2", "203.0.113.5:1"), "protocol-47 has no ports"),
                (("256", "192.0.2.2", "203.0.113.5"), "a number from 0 to 255"),
                (("60", "2001:db8::1", "2001:db8::2"), "60 is an extension header of IPv6"),
                (("tcp", "192.0.2.2:1", "203.0.113.5:2", "--mark", "1x"), "--mark '1x': expected"),
                (("tcp", "192.0.2.2:1", "203.0.113.5:2", "--mac", "00:00"), "--mac '00:00': expected"),
                (("tcp", "192.0.2.2:1"), "DST is required"),
                ((), "PROTO is required, or --diff FILE"),
                (("tcp", "192.0.2.2:1", "203.0.113.5:2", "--all"), "--all needs --diff"),
                (("tcp", "192.0.2.2:1", "203.0.113.5:2", "--diff", "x.yaml"), "--diff is about all flows")):
            with self.subTest(args=args):
                done = self.tpx.command("explain", *args, check=False)
                self.assertEqual((done.returncode, done.stdout), (2, ""), done.stderr)
                self.assertIn(words, done.stderr)


if __name__ == "__main__":
    harness.main()
