# SPDX-License-Identifier: Apache-2.0
"""explain --diff: which of the flows that are there a candidate would judge otherwise."""
import json
import socket

import harness
import product
import schema
from product import end

DIRECT, PAIRED = 5300, 5301  # ports of UDP


def now_rules(link=None):
    return [product.rule("proxy", "kept", {"dport": 9000, **(link or {})}), product.rule("proxy", "old"),
            product.udp_rule("bypass", "direct", {"dport": DIRECT}), product.udp_rule()]


class ExplainDiff(product.TestCase):
    def setUp(self):
        super().setUp()
        self.candidate = self.tpx.folder / "candidate.yaml"
        self.published = json.loads((harness.REPO / "docs/schema/explain-diff.schema.json").read_text())

    def diff(self, rules, *more, **options):
        self.candidate.write_text(json.dumps(product.config(rules, **options)))
        answer = self.tpx.json("explain", "--diff", self.candidate, *more)
        self.assertEqual(schema.errors_of(answer, self.published), [])
        return answer

    def udp(self, family, *ports):
        sock = self.lab.client.socket(family.af, socket.SOCK_DGRAM)
        self.addCleanup(sock.close)
        sock.bind((family.client, 0))
        for port in ports:
            sock.sendto(b"x", (family.server, port))
        return sock

    @staticmethod
    def words(flow):
        return (flow["proto"], flow["src"], flow["dst"], *((side["verdict"], side["rule"], side["source"], side["target"])
                                                           for side in (flow["now"], flow["then"])))

    def test_I3_tells_the_flows_that_change_and_no_others(self):
        self.tpx.start(product.config(now_rules()))
        expected = set()
        for family in harness.FAMILIES:
            clients = {port: end(*self.pair(family, port)[0].getsockname()[:2]) for port in (9000, 9001, 9002, 9003)}
            own = end(*self.udp(family, DIRECT, PAIRED, 5302).getsockname()[:2])
            old = ("proxy", "old", "masquerade", None)

            def change(port, now, then, proto="tcp", src=None):
                expected.add((proto, src or clients[port], end(family.server, port), now, then))
            change(9001, old, ("drop", "no", None, None))
            change(9002, old, ("proxy", "seen", "preserve", None))
            change(9003, old, ("redirect", "away", "masquerade", "203.0.113.9:99"))
            change(DIRECT, ("direct", "direct", None, None), ("proxy", "udp", "masquerade", None), "udp", own)
            change(5302, ("proxy", "udp", "masquerade", None), ("reject", "not", None, None), "udp", own)
        candidate = [product.rule("drop", "no", {"dport": 9001}),
                     product.rule("proxy", "seen", {"dport": 9002}, source="preserve"),
                     product.rule({"redirect": "203.0.113.9:99"}, "away", {"dport": 9003}),
                     product.rule("proxy", "renamed", {"dport": 9000}),
                     product.udp_rule("reject", "not", {"dport": 5302}), product.udp_rule()]
        before = self.state()
        answer = self.diff(candidate)
        self.assertEqual({self.words(flow) for flow in answer["flows"]}, expected)
        self.assertEqual({flow["device"] for flow in answer["flows"]}, {"lan0", None})
        self.assertEqual(answer["totals"], {"tcp": {"seen": 8, "changed": 6, "uncertain": 0},
                                            "udp": {"seen": 6, "changed": 4, "uncertain": 0}})
        self.assertEqual(self.state(), before)
        self.assertEqual(self.diff(now_rules())["flows"], [])
        text = self.tpx.command("explain", "--diff", self.candidate).stdout
        self.assertIn(f"0 of 8 TCP sessions and 0 of 6 UDP flows would be judged otherwise by {self.candidate}\n", text)
        self.assertIn("TCP that goes past the proxy is known to nobody", text)

    def state(self):
        flows = harness.run(["bpftool", "-j", "map", "dump", "pinned", self.tpx.pins / "tpx_flows"]).stdout
        return flows, self.tpx.rules(), self.tpx.status()["generation"], self.tpx.sessions()

    def test_I3_what_a_reload_kept_is_told_again(self):
        self.tpx.start(product.config(now_rules()))
        self.pair(harness.V4, 9001)
        later = [product.rule("drop"), product.udp_rule()]
        self.tpx.reload(product.config(later))
        flow, = self.diff(later)["flows"]
        self.assertEqual((flow["now"]["verdict"], flow["now"]["rule"], flow["then"]["verdict"]), ("proxy", None, "drop"))

    def test_what_depends_on_the_link_is_uncertain(self):
        on_lan = {"interface": "lan0"}
        self.tpx.start(product.config(now_rules()))
        self.pair(harness.V4, 9000)
        self.pair(harness.V4, 9001)
        self.udp(harness.V4, PAIRED)
        answer = self.diff([product.rule("proxy", "kept", {"dport": 9000, **on_lan}),
                            product.udp_rule("proxy", "udp", on_lan)])
        found = {flow["dst"]: (flow["then"]["verdict"], flow["uncertain"]) for flow in answer["flows"]}
        # Of UDP the device is known.
        self.assertEqual(found, {"198.51.100.2:9000": ("direct", True), "198.51.100.2:9001": ("direct", False)})
        self.assertTrue(any("uncertain" in note for note in answer["notes"]), answer["notes"])
        text = self.tpx.command("explain", "--diff", self.candidate).stdout
        self.assertRegex(text, r"(?m)^tcp .*:9000: proxy \(masquerade\) by 'kept' -> direct by 'default', unless its link")

    def test_only_so_many_are_shown(self):
        self.tpx.start(product.config([product.udp_rule("bypass")]))
        self.udp(harness.V4, *range(20000, 21100))
        candidate = [product.udp_rule("drop")]
        answer = self.diff(candidate)
        self.assertEqual((len(answer["flows"]), answer["omitted"], answer["totals"]["udp"]["changed"]), (1000, 100, 1100))
        answer = self.diff(candidate, "--all")
        self.assertEqual((len({flow["dst"] for flow in answer["flows"]}), answer["omitted"]), (1100, 0))

    def test_needs_something_loaded(self):
        done = self.tpx.command("explain", "--diff", self.tpx.config, check=False)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn("nothing is loaded", done.stderr)


if __name__ == "__main__":
    harness.main()
